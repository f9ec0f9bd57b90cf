//! One leaf of a column: values with their levels, decoded some rows at a time.

use std::sync::Arc;

use parquet::{
    column::reader::{ColumnReader, ColumnReaderImpl},
    data_type::{ByteArray, DataType},
    schema::types::ColumnDescriptor,
};
use serde_json::Value;

use super::{Fault, float, guarded, shape::integer};

/// A leaf, from which values are taken one after the other.
pub(super) struct Leaf {
    about: Arc<ColumnDescriptor>,
    reader: ColumnReader,
    values: Values,
    levels: Levels,
    /// The next place, and the next value: a place without one has a level below the highest.
    at: usize,
    value: usize,
}

#[derive(Default)]
struct Levels {
    present: Vec<i16>,
    depth: Vec<i16>,
    places: usize,
}

/// Decoded values.
enum Values {
    Bool(Vec<bool>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Float(Vec<f32>),
    Double(Vec<f64>),
    Bytes(Vec<ByteArray>),
}

impl Leaf {
    pub(super) fn new(about: Arc<ColumnDescriptor>, reader: ColumnReader) -> Self {
        Self { about, reader, values: Values::Bool(Vec::new()), levels: Levels::default(), at: 0, value: 0 }
    }

    /// Decodes the next rows, when the earlier ones have been taken.
    pub(super) fn fill(&mut self, rows: usize) -> Result<(), Fault> {
        self.used_up()?;
        let found = guarded(|| self.decode(rows))?;
        if found != rows {
            return Err(Fault(format!("column `{}` has fewer rows than its row group", self.name())));
        }
        (self.at, self.value) = (0, 0);
        self.at_row()
    }

    /// Sees that the row group holds no more rows.
    pub(super) fn finish(&mut self) -> Result<(), Fault> {
        self.used_up()?;
        if guarded(|| self.decode(1))? > 0 {
            return Err(Fault(format!("column `{}` has more rows than its row group", self.name())));
        }
        Ok(())
    }

    fn used_up(&self) -> Result<(), Fault> {
        if self.at != self.levels.places || self.value != self.values.len() {
            return Err(Fault(format!("column `{}` has more values than its rows take", self.name())));
        }
        Ok(())
    }

    /// Decodes at most so many rows; how many there were.
    fn decode(&mut self, rows: usize) -> Result<usize, Fault> {
        self.levels = Levels::default();
        let levels = &mut self.levels;
        let (values, found) = match &mut self.reader {
            ColumnReader::BoolColumnReader(reader) => {
                let (values, found) = read(reader, rows, levels)?;
                (Values::Bool(values), found)
            }
            ColumnReader::Int32ColumnReader(reader) => {
                let (values, found) = read(reader, rows, levels)?;
                (Values::Int32(values), found)
            }
            ColumnReader::Int64ColumnReader(reader) => {
                let (values, found) = read(reader, rows, levels)?;
                (Values::Int64(values), found)
            }
            ColumnReader::FloatColumnReader(reader) => {
                let (values, found) = read(reader, rows, levels)?;
                (Values::Float(values), found)
            }
            ColumnReader::DoubleColumnReader(reader) => {
                let (values, found) = read(reader, rows, levels)?;
                (Values::Double(values), found)
            }
            ColumnReader::ByteArrayColumnReader(reader) => {
                let (values, found) = read(reader, rows, levels)?;
                (Values::Bytes(values), found)
            }
            ColumnReader::Int96ColumnReader(_) | ColumnReader::FixedLenByteArrayColumnReader(_) => {
                return Err(Fault(format!("column `{}` is of another type than the file says", self.name())));
            }
        };
        self.values = values;
        // Without levels every place has its value.
        let places = if self.about.max_def_level() > 0 { self.levels.present.len() } else { self.values.len() };
        self.levels.places = places;
        Ok(found)
    }

    fn name(&self) -> String {
        self.about.path().string()
    }

    /// How much of the path is there at the next place, and which list goes on; `None` behind the last.
    pub(super) fn peek(&self) -> Option<(i16, i16)> {
        let level = |levels: &[i16]| levels.get(self.at).copied().unwrap_or(0);
        (self.at < self.levels.places).then(|| (level(&self.levels.present), level(&self.levels.depth)))
    }

    /// Passes a place that has no value.
    pub(super) fn skip(&mut self) -> Result<(), Fault> {
        match self.peek() {
            Some((present, _)) if present < self.about.max_def_level() => {
                self.at += 1;
                Ok(())
            }
            _ => Err(Fault(format!("column `{}` has a value where another has none", self.name()))),
        }
    }

    /// Takes the value of the next place.
    pub(super) fn take(&mut self) -> Result<Value, Fault> {
        let there = self.peek().is_some_and(|(present, _)| present == self.about.max_def_level());
        let Some(value) = self.json().filter(|_| there) else {
            return Err(Fault(format!("column `{}` lacks a value", self.name())));
        };
        self.at += 1;
        self.value += 1;
        value
    }

    /// The next value; `None` if there is no more.
    fn json(&self) -> Option<Result<Value, Fault>> {
        let at = self.value;
        Some(Ok(match &self.values {
            Values::Bool(values) => (*values.get(at)?).into(),
            // As `to_pylist` and a row of `datasets` give it: 0.1 in single precision is 0.10000000149011612.
            Values::Float(values) => float(f64::from(*values.get(at)?)),
            Values::Double(values) => float(*values.get(at)?),
            // The bits of one without a sign are stored as those of one with a sign.
            Values::Int32(values) if !integer(self.about.self_type()).1 => values.get(at)?.cast_unsigned().into(),
            Values::Int64(values) if !integer(self.about.self_type()).1 => values.get(at)?.cast_unsigned().into(),
            Values::Int32(values) => (*values.get(at)?).into(),
            Values::Int64(values) => (*values.get(at)?).into(),
            Values::Bytes(values) => match std::str::from_utf8(values.get(at)?.data()) {
                Ok(text) => text.into(),
                Err(e) => return Some(Err(Fault(format!("a text of column `{}` is not UTF-8: {e}", self.name())))),
            },
        }))
    }

    /// Sees that the next place, if there is one, begins a row.
    pub(super) fn at_row(&self) -> Result<(), Fault> {
        match self.peek() {
            Some((_, depth)) if depth != 0 => {
                Err(Fault(format!("a list of column `{}` goes on where a row should begin", self.name())))
            }
            _ => Ok(()),
        }
    }
}

impl Values {
    fn len(&self) -> usize {
        match self {
            Self::Bool(values) => values.len(),
            Self::Int32(values) => values.len(),
            Self::Int64(values) => values.len(),
            Self::Float(values) => values.len(),
            Self::Double(values) => values.len(),
            Self::Bytes(values) => values.len(),
        }
    }
}

/// At most so many rows of a column: their values, and how many rows there were.
fn read<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    rows: usize,
    levels: &mut Levels,
) -> Result<(Vec<T::T>, usize), Fault> {
    let mut values = Vec::new();
    let mut found = 0;
    // A page may end before the rows do.
    while found < rows {
        let (present, depth) = (Some(&mut levels.present), Some(&mut levels.depth));
        let (more, _, _) = reader.read_records(rows - found, present, depth, &mut values)?;
        if more == 0 {
            break;
        }
        found += more;
    }
    Ok((values, found))
}
