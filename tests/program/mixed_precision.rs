//! Bits where a sensitivity table says they are needed: the allocation itself, and the experiment around it.

use serde_json::Value;

use super::project::{LAYERS, LINEARS, Project, csv};

/// Runs lines of Rhai behind the import of the allocation; they throw what is wrong.
fn check(lines: &str) {
    let project = Project::new();
    project.write("check.rhai", &format!("import \"scripts/allocation\" as allocation;\nfn same(a, b) {{ if a != b {{ throw `${{a}} is not ${{b}}`; }} }}\n{lines}\n"));
    project.run(&["plan", "check.rhai"]).exits(0);
}

#[test]
fn bits_cost_their_scales_too() {
    check(
        "same(allocation::cost(3, 64), 3.0 + 19.0 / 64.0); same(allocation::loss_at(64.0, 3), 1.0); same(allocation::loss_at(64.0, 4), 0.25); same(allocation::loss_at(64.0, 2), 4.0);",
    );
}

#[test]
fn losses_are_the_cells_of_a_table() {
    check(
        r#"let rows = [
    #{ kind: "none", block: "none", "kl.kl": 0.0 }, #{ kind: "all", block: "all", "kl.kl": 9.0 }, #{ kind: "q_proj", block: "all", "kl.kl": 3.0 },
    #{ kind: "all", block: "0", "kl.kl": 3.0 }, #{ kind: "q_proj", block: "0", "kl.kl": 0.5 }, #{ kind: "q_proj", block: 1, "kl.kl": 0.25 },
];
same(allocation::losses(rows, "kl.kl"), #{ "q_proj 0": 0.5, "q_proj 1": 0.25 });
let told = "";
try { allocation::losses(rows, "nll"); } catch (error) { told = error; }
same(told, "the table has no column \"nll\": it is not one of experiments/sensitivity.rhai");
try { allocation::losses([rows[0], rows[1]], "kl.kl"); } catch (error) { told = error; }
if !told.contains("--set cells=true") { throw told; }"#,
    );
}

#[test]
fn the_budget_goes_where_it_saves_most() {
    // Against every allocation there is: four units, three widths. Where units are of one size, the best steps are the best sum.
    check(
        r#"let units = [];
for (loss, index) in [0.5, 0.04, 0.3, 0.01] {
    units.push(#{ name: `${index}`, targets: [`${index}`], weights: 64, loss: loss });
}
let levels = [2, 3, 4];
let budget = allocation::cost(3, 64);
let total = |chosen| {
    let sum = 0.0;
    for (unit, index) in units { sum += allocation::loss_at(unit.loss, levels[chosen[index]]); }
    sum
};
let spent = |chosen| {
    let sum = 0.0;
    for (unit, index) in units { sum += allocation::cost(levels[chosen[index]], 64) * unit.weights; }
    sum / 256.0
};
let best = 1000.0;
for a in range(0, 3) { for b in range(0, 3) { for c in range(0, 3) { for d in range(0, 3) {
    let chosen = [a, b, c, d];
    if spent.call(chosen) <= budget + 0.001 { best = min(best, total.call(chosen)); }
} } } }
let greedy = allocation::spend(units, levels, 64, budget, "sensitivity");
if spent.call(greedy) > budget + 0.001 { throw `${greedy} costs ${spent.call(greedy)}`; }
if total.call(greedy) > best + 0.000001 { throw `${greedy} loses ${total.call(greedy)}, the best ${best}`; }
let reversed = allocation::spend(units, levels, 64, budget, "reversed");
if total.call(reversed) < 2.0 * best { throw `${reversed} loses ${total.call(reversed)}`; }
if spent.call(reversed) > budget + 0.001 { throw `${reversed}`; }
// Draws are what their number says, and differ.
let draws = [];
for draw in range(0, 6) {
    let chosen = allocation::spend(units, levels, 64, budget, draw);
    same(chosen, allocation::spend(units, levels, 64, budget, draw));
    if spent.call(chosen) > budget + 0.001 { throw `${chosen}`; }
    if !draws.contains(chosen) { draws.push(chosen); }
}
if draws.len() < 3 { throw `${draws}`; }
// Too little for any step, and more than enough.
same(allocation::spend(units, levels, 64, allocation::cost(2, 64), "sensitivity"), [0, 0, 0, 0]);
same(allocation::spend(units, levels, 64, 16.0, "reversed"), [2, 2, 2, 2]);
let groups = allocation::groups(units, [0, 2, 0, 2], levels, 64);
for wrong in [[2, 4, 3], [3, 3]] {
    let refused = false;
    try { allocation::spend(units, wrong, 64, budget, "sensitivity"); } catch (error) { refused = `${error}`.contains("must ascend"); }
    if !refused { throw `${wrong} were taken`; }
}
same(groups.keys(), ["W2", "W4"]);
same(groups.W2.targets, ["0", "2"]);
// A step that is too large leaves room for smaller ones, and never more than the budget is spent.
units[0].weights = 500;
let chosen = allocation::spend(units, levels, 64, budget, "sensitivity");
let bits = 0.0;
for (unit, index) in units { bits += allocation::cost(levels[chosen[index]], 64) * unit.weights; }
if bits > budget * 692 + 0.5 || chosen[2] != 2 { throw `${chosen}`; }"#,
    );
}

#[test]
fn linears_that_run_as_one_are_one_unit() {
    check(
        r#"let linears = model("tiny").linears();
same(linears.len(), 14);
same(linears[13], #{ name: "model.layers.1.mlp.down_proj", block: 1, kind: "down_proj", inputs: 64, outputs: 32, weights: 2048, stack: "model.layers.1.mlp.down_proj" });
let losses = #{};
for linear in linears { losses[`${linear.kind} ${linear.block}`] = 0.25; }
losses["v_proj 1"] = -0.1;
let units = allocation::units(linears, losses, true);
same(units.len(), 8);
same(units[0].targets, ["model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj", "model.layers.0.self_attn.v_proj"]);
same(units[0].weights, 32 * 32 + 2 * 16 * 32);
same(units[0].loss, 0.75);
same(units[4].loss, 0.5);
same(allocation::units(linears, losses, false).len(), 14);
let told = "";
try { allocation::units(linears, #{ "q_proj 0": 0.1 }, true); } catch (error) { told = error; }
if !told.contains("no row for k_proj of block 0") { throw told; }"#,
    );
}

#[test]
fn allocations_of_one_budget_stand_in_one_table() {
    let project = Project::new();
    project.add_source("experiments/sensitivity.rhai");
    project.add_source("experiments/mixed_precision.rhai");
    let run = |script: &str, more: &[&str]| {
        let mut arguments = vec!["run", script];
        for set in ["model=tiny", "text=text.txt", "context=32", "blocks=16", "group_size=16"].iter().chain(more) {
            arguments.extend(["--set", set]);
        }
        project.run(&arguments)
    };
    run("experiments/sensitivity.rhai", &["cells=true"]).exits(0);
    project.write("calibration.txt", "Mira sang.");
    let table = "sensitivity=results/reports/sensitivity/table.csv";
    let outcome = run("experiments/mixed_precision.rhai", &[table, "calibration=calibration.txt", "draws=2"]).exits(0);
    // Linears that servers run as one keep one width.
    assert!(!outcome.err.contains("warning") && !outcome.out.contains("Warning"), "{}\n{}", outcome.err, outcome.out);
    let rows = csv(&project.read("results/reports/mixed_precision/table.csv"));
    let names: Vec<&str> = rows.iter().map(|row| row["bits"].as_str()).collect();
    let expected = [
        "unquantized",
        "2 everywhere",
        "3 everywhere",
        "4 everywhere",
        "by sensitivity",
        "reversed",
        "random 0",
        "random 1",
    ];
    assert_eq!(names, expected);
    let number = |name: &str, column: &str| -> f64 {
        rows.iter().find(|row| row["bits"] == name).unwrap()[column].parse().unwrap()
    };
    let budget = number("3 everywhere", "bits_per_weight");
    for name in ["by sensitivity", "reversed", "random 0", "random 1"] {
        let bits = number(name, "bits_per_weight");
        assert!(bits <= budget + 1e-9 && bits > budget - 0.35, "{name} has {bits} bits per weight of {budget}");
    }
    assert!(number("by sensitivity", "kl.kl") < number("reversed", "kl.kl"));
    let comparisons = project.read("results/reports/mixed_precision/comparisons.csv");
    assert!(comparisons.contains("by sensitivity") && comparisons.contains("random 1"), "{comparisons}");

    // The model that it made has one group of modules per width that was chosen.
    let quantized = project.stored("results", "quantize", "rtn");
    let widths = |record: &Value| record["identity"]["params"]["groups"].as_array().unwrap().len();
    let mixed = quantized.iter().filter(|(_, record)| widths(record) > 1).count();
    assert!(mixed >= 3, "{mixed} of {}", quantized.len());
    let (_, record) = quantized.iter().find(|(_, record)| widths(record) > 1).unwrap();
    let modules = record["identity"]["params"]["groups"].as_array().unwrap().iter();
    assert_eq!(modules.map(|group| group["modules"].as_array().unwrap().len()).sum::<usize>(), LINEARS.len() * LAYERS);

    let poor = run("experiments/mixed_precision.rhai", &[table, "budget=2.5"]).exits(2);
    assert!(poor.err.contains("a budget of 2.5 bits per weight is less than 2 bits cost"), "{}", poor.err);
    let elsewhere = run("experiments/mixed_precision.rhai", &["sensitivity=nowhere.csv"]).exits(2);
    assert!(elsewhere.err.contains("there is no file or folder `nowhere.csv`"), "{}", elsewhere.err);
}
