//! Types of columns, and how their values are made of the leaves that a file stores.

use std::ops::Range;

use parquet::{
    basic::{ConvertedType, LogicalType, Repetition, Type as Physical},
    schema::types::{SchemaDescriptor, Type},
};

/// A column of a file.
pub(super) struct Column {
    pub(super) name: String,
    /// Its type in words.
    pub(super) kind: String,
    /// Which columns of leaves belong to it.
    pub(super) leaves: Range<usize>,
    /// How it is read; the type in it that is not.
    pub(super) node: Result<Node, String>,
}

/// How a value is put together. A leaf stores a value with two levels: how much of the path to it is there, and which list on that path
/// goes on.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// The level from which on the value is not null.
    pub(super) present: i16,
    /// The first of its leaves, and how many there are.
    pub(super) first: usize,
    pub(super) count: usize,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// A text.
    Text,
    /// A number, a truth value, or nothing at all.
    Plain,
    /// Named values.
    Struct(Vec<(String, Node)>),
    /// Values of one kind: there is one at all from the level `filled` on, and one more where the other level is `depth`.
    List { filled: i16, depth: i16, item: Box<Node> },
}

impl Node {
    /// Whether this is what a document can be made of.
    pub(super) fn is_text_or_messages(&self) -> bool {
        match &self.kind {
            Kind::Text => true,
            Kind::List { item, .. } => matches!(item.kind, Kind::Struct(_)),
            Kind::Plain | Kind::Struct(_) => false,
        }
    }

    /// The same with leaves counted from another number on.
    pub(super) fn numbered_from(self, first: usize) -> Self {
        let by = first as isize - self.first as isize;
        self.moved(by)
    }

    fn moved(mut self, by: isize) -> Self {
        self.first = self.first.wrapping_add_signed(by);
        self.kind = match self.kind {
            Kind::Struct(fields) => {
                Kind::Struct(fields.into_iter().map(|(name, node)| (name, node.moved(by))).collect())
            }
            Kind::List { filled, depth, item } => Kind::List { filled, depth, item: Box::new(item.moved(by)) },
            plain => plain,
        };
        self
    }
}

/// The columns of a file.
pub(super) fn columns(schema: &SchemaDescriptor) -> Vec<Column> {
    let mut next = 0;
    let column = |field: &std::sync::Arc<Type>| {
        let first = next;
        next += leaves(field);
        Column {
            name: field.name().to_owned(),
            kind: described(field),
            leaves: first..next,
            node: node(field, first, Levels { present: 0, depth: 0 }),
        }
    };
    schema.root_schema().get_fields().iter().map(column).collect()
}

/// How many columns of leaves a type has.
fn leaves(field: &Type) -> usize {
    if field.is_primitive() { 1 } else { field.get_fields().iter().map(|field| leaves(field)).sum() }
}

#[derive(Clone, Copy)]
struct Levels {
    present: i16,
    depth: i16,
}

impl Levels {
    fn optional(self) -> Self {
        Self { present: self.present + 1, ..self }
    }

    fn repeated(self) -> Self {
        Self { present: self.present + 1, depth: self.depth + 1 }
    }
}

fn repetition(field: &Type) -> Repetition {
    let info = field.get_basic_info();
    if info.has_repetition() { info.repetition() } else { Repetition::REQUIRED }
}

/// How a field is read; the type that is not.
fn node(field: &Type, first: usize, above: Levels) -> Result<Node, String> {
    match repetition(field) {
        Repetition::REQUIRED => value(field, first, above),
        Repetition::OPTIONAL => value(field, first, above.optional()),
        // A list in the oldest way, which cannot be absent.
        Repetition::REPEATED => list(value(field, first, above.repeated())?, above),
    }
}

fn list(item: Node, own: Levels) -> Result<Node, String> {
    let Levels { present: filled, depth } = own.repeated();
    let (first, count) = (item.first, item.count);
    Ok(Node { present: own.present, first, count, kind: Kind::List { filled, depth, item: Box::new(item) } })
}

/// The same without its repetition, at the levels that are its own.
fn value(field: &Type, first: usize, own: Levels) -> Result<Node, String> {
    let count = leaves(field);
    let made = |kind| Ok(Node { present: own.present, first, count, kind });
    if field.is_primitive() {
        return leaf(field).map_or_else(|| Err(described(field)), made);
    }
    let fields = field.get_fields();
    if fields.is_empty() || is_map(field) {
        return Err(described(field));
    }
    if is_list(field) {
        let [repeated] = fields else { return Err(described(field)) };
        if repetition(repeated) != Repetition::REPEATED {
            return Err(described(field));
        }
        let item = match element(field, repeated) {
            Some(inner) => node(inner, first, own.repeated())?,
            None => value(repeated, first, own.repeated())?,
        };
        return list(item, own);
    }
    let mut next = first;
    let mut members = Vec::new();
    for field in fields {
        members.push((field.name().to_owned(), node(field, next, own)?));
        next += leaves(field);
    }
    made(Kind::Struct(members))
}

/// The element of a list where that lies within the repeated group; in files of the older ways that group is the element itself.
fn element<'a>(list: &Type, repeated: &'a Type) -> Option<&'a Type> {
    if repeated.is_primitive() || repeated.name() == "array" || repeated.name() == format!("{}_tuple", list.name()) {
        return None;
    }
    match repeated.get_fields() {
        [inner] if repetition(inner) != Repetition::REPEATED => Some(inner),
        _ => None,
    }
}

fn is_list(field: &Type) -> bool {
    let info = field.get_basic_info();
    matches!(info.logical_type_ref(), Some(LogicalType::List)) || info.converted_type() == ConvertedType::LIST
}

fn is_map(field: &Type) -> bool {
    let info = field.get_basic_info();
    matches!(info.logical_type_ref(), Some(LogicalType::Map))
        || matches!(info.converted_type(), ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE)
}

/// What a leaf is read as, if it is.
fn leaf(field: &Type) -> Option<Kind> {
    match word(field).as_str() {
        "string" => Some(Kind::Text),
        "bool" | "float" | "double" | "null" => Some(Kind::Plain),
        "int8" | "int16" | "int32" | "int64" | "uint8" | "uint16" | "uint32" | "uint64" => Some(Kind::Plain),
        _ => None,
    }
}

/// A leaf's type in Arrow's words.
fn word(field: &Type) -> String {
    let info = field.get_basic_info();
    let physical = field.get_physical_type();
    match (info.logical_type_ref(), info.converted_type()) {
        (Some(LogicalType::String | LogicalType::Enum | LogicalType::Json), _)
        | (None, ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON)
            if physical == Physical::BYTE_ARRAY =>
        {
            "string".to_owned()
        }
        (Some(LogicalType::Integer(_)), _)
        | (
            None,
            ConvertedType::INT_8
            | ConvertedType::INT_16
            | ConvertedType::INT_32
            | ConvertedType::INT_64
            | ConvertedType::UINT_8
            | ConvertedType::UINT_16
            | ConvertedType::UINT_32
            | ConvertedType::UINT_64,
        ) if matches!(physical, Physical::INT32 | Physical::INT64) => {
            let (bits, signed) = integer(field);
            format!("{}int{bits}", if signed { "" } else { "u" })
        }
        (Some(LogicalType::Unknown), _) => "null".to_owned(),
        (None, ConvertedType::NONE) => match physical {
            Physical::BOOLEAN => "bool",
            Physical::INT32 => "int32",
            Physical::INT64 => "int64",
            Physical::INT96 => "timestamp (int96)",
            Physical::FLOAT => "float",
            Physical::DOUBLE => "double",
            Physical::BYTE_ARRAY => "binary",
            Physical::FIXED_LEN_BYTE_ARRAY => "fixed_size_binary",
        }
        .to_owned(),
        (Some(logical), _) => {
            let name = format!("{logical:?}");
            name.split([' ', '(', '{']).next().unwrap_or_default().to_lowercase()
        }
        (None, converted) => converted.to_string().to_lowercase(),
    }
}

/// Bits of an integer, and whether it has a sign.
pub(super) fn integer(field: &Type) -> (i8, bool) {
    let info = field.get_basic_info();
    let plain = if field.get_physical_type() == Physical::INT32 { 32 } else { 64 };
    match (info.logical_type_ref(), info.converted_type()) {
        (Some(LogicalType::Integer(of)), _) => (of.bit_width, of.is_signed),
        (_, ConvertedType::INT_8) => (8, true),
        (_, ConvertedType::INT_16) => (16, true),
        (_, ConvertedType::UINT_8) => (8, false),
        (_, ConvertedType::UINT_16) => (16, false),
        (_, ConvertedType::UINT_32) => (32, false),
        (_, ConvertedType::UINT_64) => (64, false),
        _ => (plain, true),
    }
}

/// A type in Arrow's words: `list<struct<role: string, content: string>>`.
fn described(field: &Type) -> String {
    let whole = if field.is_primitive() {
        word(field)
    } else {
        let fields = field.get_fields();
        let members = |fields: &[std::sync::Arc<Type>]| {
            fields.iter().map(|field| format!("{}: {}", field.name(), described(field))).collect::<Vec<_>>().join(", ")
        };
        match fields {
            [repeated] if is_list(field) => match element(field, repeated) {
                Some(inner) => format!("list<{}>", described(inner)),
                // Its own repetition is what makes the list.
                None if repeated.is_primitive() => format!("list<{}>", word(repeated)),
                None => format!("list<struct<{}>>", members(repeated.get_fields())),
            },
            [entries] if is_map(field) && !entries.is_primitive() => format!("map<{}>", members(entries.get_fields())),
            _ => format!("struct<{}>", members(fields)),
        }
    };
    if repetition(field) == Repetition::REPEATED { format!("list<{whole}>") } else { whole }
}
