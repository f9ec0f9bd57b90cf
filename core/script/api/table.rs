//! `report` and its rows.

use rhai::{Dynamic, Engine, Map, NativeCallContext};
use serde_json::Value;

use super::{Called, Host, placed};
use crate::{
    error::{Error, Result, did_you_mean},
    eval::Method,
    graph::node::Origin,
    script::{Builder, EvaluationHandle, RowSpec, Shared, lock, options::to_json, place::origin},
};

/// A table that a script fills.
#[derive(Clone, Debug)]
struct ReportHandle {
    index: usize,
}

pub(super) fn register(engine: &mut Engine, host: &Host) {
    engine.register_type_with_name::<ReportHandle>("Report");
    let s = host.shared.clone();
    engine.register_fn("report", move |context: NativeCallContext<'_>, name: &str| -> Called<ReportHandle> {
        placed(&context, open(&s, name, origin(&context)))
    });
    let s = host.shared.clone();
    engine.register_fn(
        "baseline",
        move |context: NativeCallContext<'_>,
              report: &mut ReportHandle,
              evaluation: EvaluationHandle|
              -> Called<ReportHandle> {
            let mut labels = Map::new();
            labels.insert("variant".into(), Dynamic::from("baseline"));
            placed(&context, row(&s, report, &evaluation, labels, origin(&context), true))
        },
    );
    let s = host.shared.clone();
    engine.register_fn(
        "baseline",
        move |context: NativeCallContext<'_>,
              report: &mut ReportHandle,
              evaluation: EvaluationHandle,
              labels: Map|
              -> Called<ReportHandle> {
            placed(&context, row(&s, report, &evaluation, labels, origin(&context), true))
        },
    );
    let s = host.shared.clone();
    engine.register_fn(
        "row",
        move |context: NativeCallContext<'_>,
              report: &mut ReportHandle,
              evaluation: EvaluationHandle,
              labels: Map|
              -> Called<ReportHandle> {
            placed(&context, row(&s, report, &evaluation, labels, origin(&context), false))
        },
    );
    let s = host.shared.clone();
    engine.register_fn(
        "contrast",
        move |context: NativeCallContext<'_>,
              report: &mut ReportHandle,
              left: Map,
              right: Map|
              -> Called<ReportHandle> { placed(&context, contrast(&s, report, left, right)) },
    );
    let s = host.shared.clone();
    engine.register_fn(
        "margin",
        move |context: NativeCallContext<'_>, report: &mut ReportHandle, margins: Map| -> Called<ReportHandle> {
            placed(&context, margin(&s, report, margins))
        },
    );
    let s = host.shared.clone();
    engine.register_fn(
        "heat_map",
        move |context: NativeCallContext<'_>,
              report: &mut ReportHandle,
              rows: &str,
              columns: &str|
              -> Called<ReportHandle> { placed(&context, heat_map(&s, report, rows, columns)) },
    );
    let s = host.shared.clone();
    engine.register_fn("write", move |context: NativeCallContext<'_>, report: &mut ReportHandle| -> Called<()> {
        placed(&context, write(&mut lock(&s), report.index))
    });
}

fn open(shared: &Shared, name: &str, origin: Origin) -> Result<ReportHandle> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        return Err(Error::usage(format!("`{name}` cannot be the name of a report"))
            .at(name)
            .hint("letters, digits, - and _ make a name"));
    }
    match lock(shared).open_report(name, origin) {
        Some(index) => Ok(ReportHandle { index }),
        None => Err(Error::usage(format!("there is a report `{name}` already")).at(name)),
    }
}

fn labels(map: Map) -> Result<Vec<(String, Value)>> {
    map.into_iter()
        .map(|(key, value)| {
            let value = to_json(&value)?;
            // A list reads better in a cell when it has no brackets; an empty one says so.
            let value = match &value {
                Value::Array(items) if items.is_empty() => Value::from("none"),
                Value::Array(items) => Value::from(items.iter().map(plain).collect::<Vec<_>>().join(" ")),
                Value::String(text) if text.contains("${") => {
                    return Err(Error::usage(format!("label `{key}` is `{text}`, in which nothing was filled in")).at(text.as_str()));
                }
                Value::Object(_) => return Err(Error::usage(format!("label `{key}` must be text, a number or a list")).at(key.as_str())),
                _ => value,
            };
            Ok((key.to_string(), value))
        })
        .collect()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn row(
    shared: &Shared,
    report: &ReportHandle,
    evaluation: &EvaluationHandle,
    map: Map,
    origin: Origin,
    baseline: bool,
) -> Result<ReportHandle> {
    let mut labels = labels(map)?;
    let mut builder = lock(shared);
    if builder.label_seed && !baseline {
        labels.push((crate::script::seeds::LABEL.to_owned(), builder.seed.into()));
    }
    let spec = &mut builder.reports[report.index];
    if let Some(same) = spec.rows.iter().find(|r| r.labels == labels) {
        if same.tasks == evaluation.tasks && spec.written {
            // A later pass with another seed asks again for rows that draw nothing.
            return Ok(report.clone());
        }
        return Err(Error::usage("a row with these labels is in the table already")
            .cause(format!("it was added at line {}", same.origin.line))
            .hint("give each row labels of its own"));
    }
    if baseline {
        if spec.baseline.is_some() {
            return Err(Error::usage(format!("report `{}` has a baseline already", spec.name)));
        }
        spec.baseline = Some(spec.rows.len());
    }
    spec.rows.push(RowSpec { labels, tasks: evaluation.tasks.clone(), origin });
    Ok(report.clone())
}

fn contrast(shared: &Shared, report: &ReportHandle, left: Map, right: Map) -> Result<ReportHandle> {
    let pair = (labels(left)?, labels(right)?);
    if pair.0.is_empty() || pair.1.is_empty() {
        return Err(Error::usage("a contrast needs labels on both sides")
            .hint("table.contrast(#{ activations: \"static\" }, #{ activations: \"dynamic\" })"));
    }
    let mut builder = lock(shared);
    let contrasts = &mut builder.reports[report.index].contrasts;
    if !contrasts.contains(&pair) {
        contrasts.push(pair);
    }
    Ok(report.clone())
}

fn margin(shared: &Shared, report: &ReportHandle, map: Map) -> Result<ReportHandle> {
    if map.is_empty() {
        return Err(Error::usage("a margin needs a metric").hint("table.margin(#{ acc: 1.0, nll: 0.01 })"));
    }
    let mut builder = lock(shared);
    let margins = &mut builder.reports[report.index].margins;
    for (name, value) in map {
        let given = value.as_float().or_else(|_| value.as_int().map(|value| value as f64));
        let Ok(value) = given.map_err(drop).and_then(|v| if v.is_finite() && v > 0.0 { Ok(v) } else { Err(()) }) else {
            return Err(Error::usage(format!("the margin of `{name}` is a number above zero, not {value}"))
                .at(name.as_str())
                .hint("points of a rate, nats of a likelihood: table.margin(#{ acc: 1.0, nll: 0.01 })"));
        };
        match margins.iter().find(|(known, _)| *known == name.as_str()) {
            Some((_, known)) if *known != value => {
                return Err(Error::usage(format!("`{name}` has a margin of {known} already")).at(name.as_str()));
            }
            Some(_) => {}
            None => margins.push((name.to_string(), value)),
        }
    }
    Ok(report.clone())
}

/// Refuses margins of what no row is compared by.
fn check_margins(builder: &Builder, index: usize) -> Result<()> {
    let report = &builder.reports[index];
    let mut known: Vec<String> = Vec::new();
    for (task, node) in report.rows.iter().flat_map(|row| &row.tasks) {
        let method = Method::named(&builder.graph.node(*node).method);
        let metrics = method.map_or(&[][..], Method::metrics).iter();
        // Divergences have no baseline: only rows among each other differ by them.
        let compared = metrics.filter(|_| method != Some(Method::Divergence) || !report.contrasts.is_empty());
        known.extend(compared.flat_map(|metric| [metric.name.to_owned(), format!("{task}.{}", metric.name)]));
    }
    let Some((name, _)) = report.margins.iter().find(|(name, _)| !known.contains(name)) else { return Ok(()) };
    let names: Vec<&str> = known.iter().map(String::as_str).filter(|name| !name.contains('.')).collect();
    let near = did_you_mean(name, names.iter().copied()).map(|near| format!("did you mean `{near}`?"));
    let mut listed = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>();
    listed.sort();
    listed.dedup();
    Err(Error::usage(format!("no rows of report `{}` are compared by `{name}`", report.name))
        .at(name.as_str())
        .maybe_hint(near.or_else(|| Some(format!("they are by {}", listed.join(", "))))))
}

fn heat_map(shared: &Shared, report: &ReportHandle, rows: &str, columns: &str) -> Result<ReportHandle> {
    if rows == columns {
        return Err(Error::usage("a heat map needs two labels").at(rows));
    }
    let pair = (rows.to_owned(), columns.to_owned());
    let mut builder = lock(shared);
    let heat_maps = &mut builder.reports[report.index].heat_maps;
    if !heat_maps.contains(&pair) {
        heat_maps.push(pair);
    }
    Ok(report.clone())
}

fn write(builder: &mut Builder, index: usize) -> Result<()> {
    let report = &mut builder.reports[index];
    if report.rows.is_empty() {
        return Err(Error::usage(format!("report `{}` has no rows", report.name)));
    }
    for (left, right) in &report.contrasts {
        for side in [left, right] {
            if !report.rows.iter().any(|row| side.iter().all(|label| row.labels.contains(label))) {
                let shown = side.iter().map(|(k, v)| format!("{k}: {v}")).collect::<Vec<_>>().join(", ");
                return Err(Error::usage(format!("no row of report `{}` has the labels {shown}", report.name))
                    .hint("the sides of a contrast name labels of rows"));
            }
        }
    }
    for (rows, columns) in &report.heat_maps {
        let has = |row: &RowSpec, name: &str| row.labels.iter().any(|(key, _)| key == name);
        if !report.rows.iter().any(|row| has(row, rows) && has(row, columns)) {
            return Err(Error::usage(format!(
                "no row of report `{}` has the labels {rows} and {columns}",
                report.name
            ))
            .hint("a heat map draws one label of rows against another"));
        }
    }
    check_margins(builder, index)?;
    builder.reports[index].written = true;
    Ok(())
}
