//! Tables with known properties, from a seeded generator.

use super::*;

/// Uniform in [0, 1).
pub(super) fn uniform(generator: &mut ChaCha8Rng) -> f64 {
    f64::from(generator.next_u32()) / (f64::from(u32::MAX) + 1.0)
}

pub(super) fn labels(value: Value) -> Labels {
    value.as_object().unwrap().iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

pub(super) fn contrast(left: Value, right: Value) -> Contrast {
    Contrast { left: labels(left), right: labels(right) }
}

/// Chunks of 128 tokens whose loss per token is a common difficulty plus `damage`, with a little noise of its own.
pub(super) fn wikitext(chunks: usize, damage: f64, noise: f64, row: u64) -> TaskResult {
    let mut common = ChaCha8Rng::seed_from_u64(1);
    let mut own = ChaCha8Rng::seed_from_u64(100 + row);
    let metric = |name: &str, kind, higher, items| Metric {
        name: name.into(),
        kind,
        higher_is_better: higher,
        items,
        unparsed: 0,
    };
    let (mut nll, mut kl, mut top1) = (Vec::new(), Vec::new(), Vec::new());
    for chunk in 0..chunks {
        let difficulty = 2.8 + 0.8 * uniform(&mut common);
        let extra = damage * (0.5 + uniform(&mut own)) + noise * (uniform(&mut own) - 0.5);
        let agree = (128.0 * (1.0 - (0.4 * damage).min(0.9) * uniform(&mut own))).round();
        let item = |sum: f64| Item { id: format!("chunk {chunk:03}"), weight: 128.0, sum };
        nll.push(item(128.0 * (difficulty + extra)));
        kl.push(item(128.0 * (damage * (0.3 + 0.5 * uniform(&mut own)))));
        top1.push(item(agree));
    }
    TaskResult {
        task: "wikitext".into(),
        protocol: "blocks of 512 without BOS, every token but the first scored".into(),
        subject: None,
        reference: None,
        primary: "nll".into(),
        metrics: vec![
            metric("nll", MetricKind::MeanNats, Some(false), nll),
            metric("kl", MetricKind::MeanNats, Some(false), kl),
            metric("top1", MetricKind::Rate, Some(true), top1),
        ],
    }
}

/// Questions answered right with a chance that depends on the question and falls with `damage`.
pub(super) fn quiz(task: &str, questions: usize, damage: f64, row: u64) -> TaskResult {
    let mut common = ChaCha8Rng::seed_from_u64(2);
    let mut own = ChaCha8Rng::seed_from_u64(200 + row);
    let items = (0..questions).map(|question| {
        let luck = uniform(&mut common);
        let right = luck < 0.85 && uniform(&mut own) > 0.02 + damage;
        Item { id: format!("q{question}"), weight: 1.0, sum: f64::from(u8::from(right)) }
    });
    let metric = Metric {
        name: "acc".into(),
        kind: MetricKind::Rate,
        higher_is_better: Some(true),
        items: items.collect(),
        unparsed: 0,
    };
    TaskResult {
        task: task.into(),
        protocol: "5-shot, log-likelihood".into(),
        subject: None,
        reference: None,
        primary: "acc".into(),
        metrics: vec![metric],
    }
}

pub(super) fn facts(bits: f64, bytes: u64, engine: &str) -> ModelFacts {
    ModelFacts {
        bits_per_weight: Some(bits),
        bits_per_parameter: None,
        quantized_embeddings: false,
        bytes_on_disk: Some(bytes),
        compute_dtype: Some("f32".into()),
        engine: Some(engine.into()),
    }
}

pub(super) fn row(index: u64, names: Value, damage: f64, noise: f64) -> Row {
    let (bits, bytes, engine) =
        if index == 0 { (16.0, 269_060_552, "exact") } else { (8.25, 163_301_888, "fake-quantized") };
    Row {
        labels: labels(names),
        state: RowState::Complete,
        tasks: vec![wikitext(64, damage, noise, index), quiz("world", 200, damage / 4.0, index)],
        model: facts(bits, bytes, engine),
        stale_engine: false,
    }
}

/// The down_proj ablation: an unlabelled baseline and five variants, one of which failed.
pub(super) fn ablation() -> Table {
    let mut rows = vec![
        row(0, json!({}), 0.0, 0.0),
        row(1, json!({"method": "rtn", "activations": "none", "ignore": []}), 0.0, 0.01),
        row(2, json!({"method": "rtn", "activations": "static", "ignore": []}), 0.74, 0.1),
        row(3, json!({"method": "rtn", "activations": "static", "ignore": ["*.down_proj"]}), 0.10, 0.05),
        row(4, json!({"method": "rtn", "activations": "dynamic", "ignore": []}), 0.03, 0.02),
    ];
    rows.push(Row {
        labels: labels(json!({"method": "rtn", "activations": "dynamic", "ignore": ["*.down_proj"]})),
        state: RowState::Failed {
            message: "quantize rtn: killed, 2.1 GB used of 1.9 GB declared (log: show 3f2a)".into(),
        },
        ..Row::default()
    });
    Table {
        name: "ablation_down_proj".into(),
        script: "experiments/ablation_down_proj.rhai".into(),
        baseline: Some(0),
        rows,
        contrasts: Vec::new(),
        margins: Vec::new(),
        heat_maps: Vec::new(),
        curves: Vec::new(),
        provenance: vec![("commit".into(), "0123abc".into()), ("cpu".into(), "AMD EPYC <Zen 5> & co".into())],
        remarks: vec!["Static scales: running minmax over 4,096 calibration tokens, full-precision pass.".into()],
        graph: GraphPicture::default(),
    }
}

/// The same with declared contrasts.
pub(super) fn contrasted() -> Table {
    let mut table = ablation();
    table.contrasts = vec![
        contrast(json!({"activations": "static"}), json!({"activations": "dynamic"})),
        contrast(
            json!({"activations": "static", "ignore": ["*.down_proj"]}),
            json!({"activations": "static", "ignore": []}),
        ),
    ];
    table
}

/// Two configurations with five seeds each, beside a baseline without a seed.
pub(super) fn seeded() -> Table {
    let mut rows = vec![row(0, json!({"variant": "base"}), 0.0, 0.0)];
    for (variant, damage) in [("gptq", 0.05), ("rotate+gptq", 0.03)] {
        for seed in 0..5 {
            let index = rows.len() as u64;
            let wobble = damage * (1.0 + 0.1 * f64::from(seed - 2));
            rows.push(row(index, json!({"variant": variant, "seed": seed}), wobble, 0.02));
        }
    }
    Table { name: "seeds".into(), script: "experiments/seeds.rhai".into(), baseline: Some(0), rows, ..Table::default() }
}

/// A table with everything that a page can show.
pub(super) fn showcase() -> Table {
    let mut table = contrasted();
    table.provenance = [
        (
            "command",
            "workbench run experiments/ablation_down_proj.rhai --set model=models/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
        ("commit", "0123abc4567def89 (clean)"),
        ("engine", "quant 6f1e2d · model 91ab03 · calib 77c0de · eval 5d21f0"),
        ("plugins", "rtn 0.1.0 (blake3 2f9c41aa…), outliers 0.1.0 (blake3 a02b77de…)"),
        ("cpu", "AMD EPYC 9B45 <Zen 5> & co, 2 threads"),
        ("seed", "0"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .to_vec();
    let mut node = |id: &str, label: &str, kind: &str, state: &str, from: &[&str]| {
        table.graph.nodes.push(GraphNode {
            id: id.into(),
            label: label.into(),
            kind: kind.into(),
            state: state.into(),
        });
        table.graph.edges.extend(from.iter().map(|from| ((*from).to_owned(), id.to_owned())));
    };
    node("m", "SmolLM2-135M-Instruct", "model", "done", &[]);
    node("d", "wikitext valid, 8 x 512", "dataset", "cached", &[]);
    for (i, (acts, ignore)) in [
        ("none", ""),
        ("static", ""),
        ("static", " without down_proj"),
        ("dynamic", ""),
        ("dynamic", " without down_proj"),
    ]
    .into_iter()
    .enumerate()
    {
        let failed = i == 4;
        let from: &[&str] = if acts == "static" { &["m", "d"] } else { &["m"] };
        let q = format!("q{i}");
        node(&q, &format!("rtn W8A8 {acts}{ignore}"), "quantize", if failed { "failed" } else { "done" }, from);
        for task in ["wikitext", "world"] {
            let state = if failed { "skipped" } else { "done" };
            let from = [q.as_str(), "m"];
            let from = if task == "wikitext" { &from[..] } else { &from[..1] };
            node(&format!("e{i}{task}"), task, "evaluate", state, from);
        }
    }
    for task in ["wikitext", "world"] {
        node(&format!("eb{task}"), task, "evaluate", "cached", &["m"]);
    }
    table
}

/// Forty rows with labels that are too long, and one task on which they fall apart.
pub(super) fn large() -> Table {
    let rows = (0..40).map(|index| {
        let ignore = if index % 4 == 0 { json!([]) } else { json!(["model.layers.*.mlp.down_proj", "*.o_proj"]) };
        let labels = json!({"method": format!("méthode {index} 量化"), "ignore": ignore, "bits": 2 + index % 7});
        let mut row = row(index, labels, 0.0024 * (index * index) as f64, 0.02);
        row.tasks[1].metrics[0].unparsed = index as usize % 3;
        row
    });
    Table { name: "forty rows & <long> labels".into(), baseline: Some(0), rows: rows.collect(), ..Table::default() }
}

/// Two kinds of linears in three blocks, one of which hurts, with rows that take in all.
pub(super) fn sensitivity() -> Table {
    let mut rows = vec![row(0, json!({"kind": "none", "block": "none"}), 0.0, 0.0)];
    let mut add = |kind: &str, block: Value, damage: f64| {
        rows.push(row(rows.len() as u64, json!({"kind": kind, "block": block}), damage, 0.02));
    };
    add("all", json!("all"), 0.6);
    for kind in ["q_proj", "down_proj"] {
        add(kind, json!("all"), 0.3);
        for block in 0..3 {
            let hurts = kind == "down_proj" && block == 2;
            add(kind, json!(block), if hurts { 0.25 } else { 0.0 });
        }
    }
    let heat_maps = vec![HeatMap { rows: "kind".into(), columns: "block".into() }];
    Table { name: "sensitivity".into(), baseline: Some(0), rows, heat_maps, ..Table::default() }
}
