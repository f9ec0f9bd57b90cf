//! Scripts and data that contain themselves, or nest without end: errors with their place, and never the end of the program.

use std::time::{Duration, Instant};

use super::project::{Outcome, Project};

/// A run that ends by itself, well or with an error of the script.
#[track_caller]
fn ends(project: &Project, script: &str) -> Outcome {
    project.write("nested.rhai", script);
    let since = Instant::now();
    let outcome = project.run(&["run", "nested.rhai"]);
    let begin: String = script.chars().take(80).collect();
    assert!([0, 2].contains(&outcome.code), "{begin}: {}\n{}", outcome.code, outcome.err);
    assert!(since.elapsed() < Duration::from_secs(120), "{begin}: {:?}", since.elapsed());
    outcome
}

#[track_caller]
fn refused(project: &Project, script: &str, parts: &[&str]) {
    let outcome = ends(project, script).exits(2);
    for part in parts {
        assert!(outcome.err.contains(part), "{part} is missing in\n{}", outcome.err);
    }
}

#[test]
fn imports_that_go_in_a_circle() {
    let project = Project::new();
    project.write("scripts/self.rhai", "// One.\nimport \"scripts/self\" as me;\n");
    refused(&project, "import \"scripts/self\" as s;", &["it would import itself", "scripts/self.rhai:2:"]);
    project.write("a.rhai", "import \"b\" as b;\n");
    project.write("b.rhai", "\nimport \"scripts/c\" as c;\n");
    project.write("scripts/c.rhai", "\n\n  import \"scripts/../a\" as a;\n");
    refused(&project, "import \"a\" as a;", &["a → b → scripts/c → scripts/../a", "scripts/c.rhai:3:", "in a circle"]);
    // Back to the script itself, which is no module of the circle's own.
    refused(&project, "import \"nested\" as n;", &["it would import itself", "nested.rhai:1:"]);
    project.write("d.rhai", "import \"nested\" as n;\n");
    refused(&project, "import \"d\" as d;", &["nested.rhai → d → nested", "d.rhai:1:"]);
    // Within a function, which is called when everything is imported.
    project.write("e.rhai", "fn f() { import \"nested\" as n; }\n");
    refused(&project, "import \"e\" as e;\ne::f();", &["e.rhai:1:"]);
}

#[test]
fn imports_that_go_deep_and_wide() {
    let project = Project::new();
    for depth in 0..60 {
        project.write(&format!("m{depth}.rhai"), &format!("import \"m{}\" as m;\nfn f(n) {{ m::f(n) }}\n", depth + 1));
    }
    project.write("m60.rhai", "fn f(n) { if n > 0 { f(n - 1) } else { 1 } }\n");
    refused(&project, "import \"m0\" as m;", &["32 imports wait for one another already", "m31.rhai:1:"]);
    ends(&project, "import \"m35\" as m;\nm::f(20);\nprint(\"there\");").exits(0);
    refused(&project, "import \"m35\" as m;\nm::f(10000);", &["stack overflow"]);
    // Each imports the next one twice: a million evaluations, unless each takes place once.
    for depth in 0..20 {
        let next = depth + 1;
        project.write(&format!("w{depth}.rhai"), &format!("import \"w{next}\" as a;\nimport \"w{next}\" as b;\n"));
    }
    project.write("w20.rhai", "export const ONE = 1;\nprint(\"evaluated\");\n");
    let outcome =
        ends(&project, "import \"w0\" as w;\nimport \"w20\" as last;\nif last::ONE != 1 { throw 1; }").exits(0);
    assert_eq!(outcome.err.matches("evaluated").count(), 1, "{}", outcome.err);
}

#[test]
fn expressions_that_nest() {
    let project = Project::new();
    let around = |open: &str, inner: &str, close: &str| {
        let n = 2_000;
        format!("let x = 1; let a = [1]; {}{inner}{}", open.repeat(n), close.repeat(n))
    };
    for (open, inner, close) in [
        ("(", "1", ");"),
        ("[", "1", "]"),
        ("#{a:", "1", "}"),
        ("{", "1", "}"),
        ("-", "1", ""),
        ("!", "true", ""),
        ("if true {", "1", "}"),
        ("if x == 1 { 1 } else ", "{ 2 }", ""),
        ("while x > 3 {", "1", "}"),
        ("loop {", "break;", "break; }"),
        ("switch 1 { 1 => ", "1", ", _ => 2 }"),
        ("|y| ", "1", ""),
        ("`${", "1", "}`"),
        ("print(", "1", ")"),
        ("a[", "0", "]"),
        ("x + (", "1", ")"),
        ("x + ", "1", ""),
        ("x ** ", "1", ""),
        ("x = ", "1", ""),
        ("x.y.", "z", ""),
        ("x ?? ", "1", ""),
        ("x && ", "1", ""),
        ("/* ", "", " */"),
        ("try {", "1", "} catch {}"),
        ("do {", "1", "} while false;"),
        ("for y in 0..1 {", "1", "}"),
        ("f(|y| ", "y", ")"),
        ("x in ", "[1]", ""),
    ] {
        ends(&project, &around(open, inner, close));
    }
}

#[test]
fn values_that_nest() {
    let project = Project::new();
    let begin = "let base = model(\"tiny\"); let data = dataset(\"text.txt\");";
    for grow in ["v = [v];", "v = #{ a: v };"] {
        let grown = format!("{begin} let v = 1; for i in 0..500 {{ {grow} }}");
        for then in [
            "print(v);",
            "let s = `${v}`;",
            "let s = v.to_json();",
            "let same = v == v;",
            "base.quantize(\"rtn\", #{ scheme: v });",
            "base.quantize(\"rtn\", #{ scheme: \"INT8\", ignore: v });",
            "base.quantize(\"rtn\", #{ scheme: \"INT8\", unknown: v });",
            "base.train(\"sft\", #{ data: v });",
            "perplexity(#{ text: data, blocks: v });",
            "let t = report(\"t\"); t.row(base.evaluate(perplexity(#{ text: data, max_seq_length: 16, blocks: 1 })), #{ deep: v }); t.write();",
            "param(\"deep\", v);",
            "throw v;",
        ] {
            ends(&project, &format!("{grown} {then}"));
        }
    }
}

#[test]
fn calls_that_nest() {
    let project = Project::new();
    for script in [
        "fn f(x) { [x].map(|y| f(y)) } f(1);",
        "fn f(x) { [x, 1].sort(|a, b| f(a)) } f(1);",
        "let f = |g| g.call(g); f.call(f);",
        "fn f(x) { let g = Fn(\"f\"); g.call(x) } f(1);",
        "fn f(x) { #{ a: f(x) } } f(1);",
        "fn f(x) { `${f(x)}` } f(1);",
        "fn f(x) { g(x) } fn g(x) { f(x) } f(1);",
        "fn f(x) { try { f(x) } catch { f(x) } } f(1);",
        "let s = \"x\"; loop { s += s; }",
        "let a = [1]; loop { a += a; }",
        "let m = #{}; let i = 0; loop { m[`${i}`] = m; i += 1; }",
        "\"x\".pad(2000000000, \"y\");",
        "let b = blob(2000000000);",
        "let a = []; a.pad(2000000000, 1);",
    ] {
        ends(&project, script);
    }
}

#[test]
fn data_that_nests() {
    let project = Project::new();
    let around =
        |open: &str, inner: &str, close: &str, n: usize| format!("{}{inner}{}", open.repeat(n), close.repeat(n));
    let aliases: String =
        (1..12).map(|i| format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(", "))).collect();
    for (name, text) in [
        ("a.json", around("[", "1", "]", 100_000)),
        ("b.json", around("{\"a\":", "1", "}", 100_000)),
        ("a.toml", format!("a = {}", around("[", "1", "]", 100_000))),
        ("b.toml", format!("a = {}", around("{ a = ", "1", " }", 100_000))),
        ("c.toml", format!("{} = 1", vec!["a"; 100_000].join("."))),
        ("d.toml", format!("[{}]\nx = 1", vec!["a"; 100_000].join("."))),
        ("a.yaml", around("[", "1", "]", 100_000)),
        ("b.yaml", around("{a: ", "1", "}", 100_000)),
        ("c.yaml", around("- ", "1", "", 100_000)),
        ("d.yaml", around("? ", "1", "", 100_000)),
        ("e.yaml", (0..2000).map(|i| format!("{}a:\n", " ".repeat(i))).collect()),
        ("f.yaml", format!("a0: &a0 [1]\n{aliases}")),
        ("g.yaml", "a: &a [*a]\n".to_owned()),
    ] {
        project.write(name, &text);
        let outcome = ends(&project, &format!("let v = read(\"{name}\");"));
        assert!(outcome.err.contains(name), "{name} is not named in\n{}", outcome.err);
        outcome.exits(2);
        ends(&project, &format!("let s = stages(\"{name}\");"));
    }
}
