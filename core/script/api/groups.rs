//! Which modules of a model get which scheme: `scheme` with `targets`, and `config_groups` as exceptions to it.

use std::collections::BTreeMap;

use serde_json::Value;
use workbench_model::arch::EXAMPLE_SELECTOR;

use super::scheme::{self, KvCache, Read};
use crate::{
    error::{Error, Result},
    graph::{
        embeddings::{Asked, EMBEDDINGS_AND_HEAD, EmbeddingsAndHead, Problem, select_targets},
        experts, fused,
        params::{self, GroupScheme},
        selector::select,
    },
    script::{
        Signature,
        calls::{GroupTargets, Targets, Texts},
        options::{Given, Options},
    },
    words::plural,
};

/// The calls, for messages about a group's own keys.
const OF_QUANTIZE: &str = "a group of `quantize`";
const OF_TRAIN: &str = "a group of `train`";

/// A scheme with the modules that it was asked for.
struct Group {
    /// As messages name it.
    title: String,
    /// Whether it is `scheme`, which takes what no other group names.
    rest: bool,
    /// `None` means every linear of the decoder blocks.
    targets: Option<Vec<String>>,
    scheme: Read,
}

/// The schemes of a model's linears, complete and without contradiction.
pub(super) struct Assignment {
    /// For the node, one entry per scheme, in the order of the model's linears.
    pub groups: Vec<params::Group>,
    /// For the node, where keys and values are quantized.
    pub kv_cache: Option<params::KvCache>,
    /// For labels: `W4A16, W8A16 *.down_proj, ignore *.o_proj`.
    pub label: String,
    /// For the plan: how many layers are quantized.
    pub note: String,
    /// Names of the schemes that need scales of inputs from calibration data.
    pub static_activations: Option<String>,
    /// What looks wrong but does not stop a run.
    pub warnings: Vec<String>,
    /// Whether tied embeddings shall be untied.
    pub untie: bool,
}

/// What was asked for beside the scheme of the rest.
pub(super) struct Asking {
    pub untie: bool,
    pub config_groups: Option<Value>,
    pub targets: Option<Vec<String>>,
    pub ignore: Vec<String>,
    pub kv_cache: Option<Value>,
}

impl Asking {
    /// Takes it out of the options.
    pub(super) fn take(options: &mut Options) -> Result<Self> {
        let Targets { untie_word_embeddings: untie, config_groups, targets, ignore, kv_cache_scheme } =
            options.take()?;
        let targets = targets.map(|Texts(targets)| targets);
        Ok(Self { untie, config_groups, targets, ignore: ignore.0, kv_cache: kv_cache_scheme })
    }
}

/// Who quantizes what.
pub(super) struct Task<'a> {
    pub signature: &'a Signature,
    /// Whether it is sure that head and embeddings are one tensor: a transform may have untied them.
    pub tied: bool,
    pub method: &'a str,
    /// Whether the method takes blocks as a whole.
    pub by_block: bool,
    /// Whether it is a training: of the linears of blocks alone.
    pub trains: bool,
}

impl Assignment {
    fn add(&mut self, cache: KvCache) {
        if cache.is_static {
            self.static_activations.get_or_insert_with(|| cache.name.clone());
        }
        self.label = [self.label.as_str(), &cache.name].join(" ").trim().to_owned();
        self.kv_cache = Some(cache.params);
    }
}

/// Reads the options that say which modules get which scheme, and takes those of the scheme of the rest.
pub(super) fn read(options: &mut Options, asked: Asking, task: &Task<'_>) -> Result<Assignment> {
    let Asking { untie, config_groups: given, targets, ignore, kv_cache } = asked;
    let call = if task.trains { OF_TRAIN } else { OF_QUANTIZE };
    let mut groups = given.map_or(Ok(Vec::new()), |given| config_groups(call, given))?;
    let cache = kv_cache.as_ref().map(scheme::read_kv_cache).transpose()?;
    let needs_scheme = groups.is_empty() && cache.is_none();
    if needs_scheme || options.has("scheme") || options.has("weights") {
        let scheme = scheme::read(options)?;
        let targets = targets.or_else(|| scheme.targets.clone());
        groups.push(Group { title: "`scheme`".into(), rest: true, targets, scheme });
    } else if targets.is_some() {
        return Err(Error::usage("`targets` stands beside a scheme, and there is none")
            .at("targets")
            .hint("add a scheme for what no group names, or move the targets into a group"));
    }
    let mut assigned = assign(groups, &ignore, task, untie)?;
    if let Some(cache) = cache {
        scheme::check_heads(&cache, &task.signature.config)?;
        assigned.add(cache);
    }
    Ok(assigned)
}

/// Groups as compressed-tensors writes them: a map of groups by name, of which one may be a list of targets under a
/// preset's name; or a plain list of groups.
fn config_groups(call: &'static str, given: Value) -> Result<Vec<Group>> {
    match given {
        Value::Array(list) => {
            list.into_iter().enumerate().map(|(i, g)| group(call, &format!("config_groups[{i}]"), None, g)).collect()
        }
        Value::Object(map) => {
            map.into_iter().map(|(name, value)| group(call, &format!("group `{name}`"), Some(&name), value)).collect()
        }
        _ => Err(Error::usage("`config_groups` is a map or a list of groups").at("config_groups").hint(format!(
            "for example config_groups: #{{ down: #{{ targets: [\"{EXAMPLE_SELECTOR}\"], scheme: \"W8A16\" }} }}"
        ))),
    }
}

fn group(call: &'static str, title: &str, name: Option<&str>, value: Value) -> Result<Group> {
    let map = match (value, name) {
        (Value::Object(map), _) => map,
        (targets @ (Value::Array(_) | Value::String(_)), Some(name)) => {
            Given::from_iter([("scheme".to_owned(), name.into()), ("targets".to_owned(), targets)])
        }
        _ => {
            return Err(Error::usage(format!("{title} is no group: a map of `targets` and a `scheme`"))
                .at(name.unwrap_or("config_groups"))
                .hint(format!("for example #{{ targets: [\"{EXAMPLE_SELECTOR}\"], scheme: \"W8A16\" }}")));
        }
    };
    let mut options = Options::new(call, map);
    let GroupTargets { targets } = options.take()?;
    let targets = targets.map(|Texts(targets)| targets).filter(|targets| !targets.is_empty());
    let scheme = scheme::read(&mut options)?;
    // A misspelled key is the better explanation of one that is missing.
    options.finish()?;
    let targets = targets.or_else(|| scheme.targets.clone());
    if targets.is_none() {
        return Err(Error::usage(format!("{title} has no targets"))
            .at(name.unwrap_or("config_groups"))
            .hint(format!("for example targets: [\"{EXAMPLE_SELECTOR}\"]")));
    }
    Ok(Group { title: title.to_owned(), rest: false, targets, scheme })
}

/// Gives every module its scheme. Groups go before the scheme of the rest, and `ignore` before everything.
fn assign(groups: Vec<Group>, ignore: &[String], task: &Task<'_>, untie: bool) -> Result<Assignment> {
    let names = &task.signature.linears;
    // To ignore an end that no target names, as recipes of others do, is no mistake.
    let all: Vec<String> = names.iter().cloned().chain(EMBEDDINGS_AND_HEAD.map(str::to_owned)).collect();
    // And routers are linears elsewhere, which nothing quantizes here.
    let routers = task.signature.config.blocks().filter_map(|block| block.router).map(|router| router.name);
    let known: Vec<String> = all.iter().cloned().chain(routers).collect();
    let ignored: Vec<&str> = if ignore.is_empty() { Vec::new() } else { select(ignore, &known)? };
    // By module, the index of its group.
    let mut chosen: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, group) in groups.iter().enumerate() {
        let picked = match &group.targets {
            Some(patterns) if patterns.is_empty() => {
                return Err(Error::usage(format!("the targets of {} are an empty list", group.title))
                    .at("targets")
                    .hint("leave `targets` out to quantize every layer"));
            }
            Some(patterns) => select_targets(patterns, names)?,
            None => names.iter().map(String::as_str).collect(),
        };
        for module in picked {
            match chosen.get(module).map(|other| &groups[*other]) {
                Some(other) if !group.rest && other.scheme.scheme != group.scheme.scheme => {
                    return Err(contradiction(module, other, group));
                }
                Some(_) => {}
                None => {
                    chosen.insert(module, index);
                }
            }
        }
    }
    chosen.retain(|module, _| !ignored.contains(module));
    if chosen.is_empty() && !groups.is_empty() {
        return Err(Error::usage("every layer is ignored: nothing is left to quantize").at("ignore"));
    }
    for (index, group) in groups.iter().enumerate() {
        let own: Vec<&String> = all.iter().filter(|n| chosen.get(n.as_str()) == Some(&index)).collect();
        let shared = chosen.values().any(|other| groups[*other].scheme.scheme == group.scheme.scheme);
        if own.is_empty() && !shared && !group.rest {
            return Err(Error::usage(format!("every layer of {} is ignored", group.title)).at("ignore"));
        }
        scheme::check_shapes(&group.scheme, &task.signature.config, &own)?;
    }
    let asked = |module: &str| {
        chosen
            .get(module)
            .map(|index| &groups[*index].scheme)
            .map(|read| Asked { scheme: &read.scheme.args, conventions: read.scheme.conventions })
    };
    let [head, embeddings] = EMBEDDINGS_AND_HEAD.map(asked);
    let embeddings_and_head = EmbeddingsAndHead { head, embeddings, tied: task.tied, untie };
    check_embeddings_and_head(&embeddings_and_head, &groups, task)?;
    let by_module: BTreeMap<&str, &GroupScheme> = chosen.iter().map(|(m, g)| (*m, &groups[*g].scheme.scheme)).collect();
    let fixed: Vec<&str> =
        groups.iter().filter(|g| g.scheme.static_activations).map(|g| g.scheme.name.as_str()).collect();
    let blocks = by_module.keys().filter(|module| !EMBEDDINGS_AND_HEAD.contains(module)).count();
    let named = EMBEDDINGS_AND_HEAD.into_iter().filter(|end| chosen.contains_key(end));
    let also: String = named.map(|end| format!(", {end}")).collect();
    let mut warnings = fused::splits(&by_module);
    warnings.extend(experts::unread(&task.signature.config, &by_module));
    warnings.extend(embeddings_and_head.remarks(task.method, task.by_block));
    Ok(Assignment {
        groups: merged(&all, &by_module),
        kv_cache: None,
        label: label(&groups, ignore),
        note: format!("{blocks} of {}{also}", plural(names.len(), "layer")),
        static_activations: (!fixed.is_empty()).then(|| fixed.join(", ")),
        warnings,
        untie: untie && task.signature.config.tie_word_embeddings,
    })
}

/// Checks what is asked for head and embeddings. An error stands at the target that names them.
fn check_embeddings_and_head(
    embeddings_and_head: &EmbeddingsAndHead<'_>,
    groups: &[Group],
    task: &Task<'_>,
) -> Result<()> {
    let trained = untrained(embeddings_and_head, task);
    let Err(problem) = trained.and_then(|()| embeddings_and_head.check()) else { return Ok(()) };
    let names = |pattern: &&String| {
        let picked = select_targets(std::slice::from_ref(*pattern), &task.signature.linears);
        picked.is_ok_and(|picked| picked.contains(&problem.module))
    };
    let target = groups.iter().flat_map(|group| group.targets.iter().flatten()).find(names);
    Err(Error::usage(problem.message).at(target.map_or(problem.module, String::as_str)).hint(problem.hint))
}

/// A trainer learns codes of the linears of blocks.
fn untrained(embeddings_and_head: &EmbeddingsAndHead<'_>, task: &Task<'_>) -> Result<(), Problem> {
    let EmbeddingsAndHead { head, embeddings, .. } = embeddings_and_head;
    let named = EMBEDDINGS_AND_HEAD.into_iter().zip([head, embeddings]).find(|(_, asked)| asked.is_some());
    match named.filter(|_| task.trains) {
        None => Ok(()),
        Some((module, _)) => Err(Problem {
            message: format!(
                "`{}` learns codes of the linears of decoder blocks, and `{module}` is a target",
                task.method
            ),
            hint: "leave it out of the targets: its weight stays a plain one".to_owned(),
            module,
        }),
    }
}

fn contradiction(module: &str, one: &Group, other: &Group) -> Error {
    let named = |group: &Group| format!("{} ({})", group.title, group.scheme.name);
    Error::usage(format!("`{module}` is a target of {} and of {}", named(one), named(other)))
        .at("config_groups")
        .hint("narrow the targets of one of them, or give both the same scheme")
}

/// The node's groups. What the script called them, and in which order, is not part of their meaning.
fn merged(names: &[String], by_module: &BTreeMap<&str, &GroupScheme>) -> Vec<params::Group> {
    let mut groups: Vec<params::Group> = Vec::new();
    for name in names {
        let Some(scheme) = by_module.get(name.as_str()) else { continue };
        match groups.iter_mut().find(|known| known.scheme == **scheme) {
            Some(group) => group.modules.push(name.clone()),
            None => groups.push(params::Group { modules: vec![name.clone()], scheme: (*scheme).clone() }),
        }
    }
    groups
}

/// Targets as a label has room for: a mixture by sensitivity names every module.
fn in_short(targets: &[String]) -> String {
    match targets {
        [first, second, _, rest @ ..] if !rest.is_empty() => format!("{first} {second} and {} more", rest.len() + 1),
        few => few.join(" "),
    }
}

/// The scheme of the rest, the groups with their targets, what is ignored.
fn label(groups: &[Group], ignore: &[String]) -> String {
    let rest = groups.iter().filter(|g| g.rest).map(|g| g.scheme.name.clone());
    let named = groups.iter().filter(|g| !g.rest);
    let named = named.map(|g| format!("{} {}", g.scheme.name, in_short(g.targets.as_deref().unwrap_or_default())));
    let ignored = ignore.iter().map(|pattern| format!(" ignore {pattern}"));
    let mut label = rest.chain(named).collect::<Vec<_>>().join(", ");
    label.extend(ignored);
    label
}
