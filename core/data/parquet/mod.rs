//! Rows of Parquet files, of the columns that are asked for.
//!
//! Row groups are read one after the other and pages as they are needed, so that memory holds a few pages of these columns, however
//! large the file is. What a file says of itself is not believed: each column has to hold exactly as many rows as its group, and
//! columns of one value have to agree where it is empty.

mod assemble;
mod leaf;
mod shape;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use parquet::{
    basic::CompressionCodec,
    errors::ParquetError,
    file::{
        metadata::RowGroupMetaData,
        reader::{FileReader, SerializedFileReader},
    },
};
use serde_json::{Map, Value};

use self::{
    leaf::Leaf,
    shape::{Column, Node, columns},
};
use super::rows::Row;
use crate::error::{Error, Result, did_you_mean};

/// Rows of a column that are decoded together.
const BATCH: usize = 64;

/// Ways to compress that are read.
const READ: [CompressionCodec; 4] =
    [CompressionCodec::UNCOMPRESSED, CompressionCodec::SNAPPY, CompressionCodec::GZIP, CompressionCodec::ZSTD];

/// A Parquet file, open.
pub(super) struct Table {
    path: PathBuf,
    reader: SerializedFileReader<File>,
    columns: Vec<Column>,
}

impl Table {
    /// Opens a file and reads what it says of its columns.
    ///
    /// # Errors
    /// The file cannot be read, is no Parquet file, or is cut off.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io("read the data", path, &e))?;
        let reader = guarded(|| Ok(SerializedFileReader::new(file)?)).map_err(|e| {
            Error::refused(format!("`{}` is no Parquet file that can be read", path.display())).cause(e.0).hint(AGAIN)
        })?;
        let columns = columns(reader.metadata().file_metadata().schema_descr());
        let table = Self { path: path.to_owned(), reader, columns };
        let add = |all: i64, rows: i64| if rows < 0 { None } else { all.checked_add(rows) };
        let all = table.groups().map(RowGroupMetaData::num_rows).try_fold(0, add);
        if all != Some(table.reader.metadata().file_metadata().num_rows()) {
            return Err(damaged(path, "its row groups have other rows than it says"));
        }
        Ok(table)
    }

    /// The names of its columns, in their order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.columns.iter().map(|column| column.name.as_str())
    }

    /// Bytes that a column takes where it is not compressed; all columns if none is named.
    pub(super) fn bytes(&self, column: Option<&str>) -> u64 {
        let asked = |known: &&Column| column.is_none_or(|column| known.name == column);
        let leaves: Vec<usize> = self.columns.iter().filter(asked).flat_map(|known| known.leaves.clone()).collect();
        let size = |group: &RowGroupMetaData, leaf: &usize| {
            group.columns().get(*leaf).map_or(0, |column| column.uncompressed_size().max(0).unsigned_abs())
        };
        let sizes = self.groups().flat_map(|group| leaves.iter().map(move |leaf| size(group, leaf)));
        sizes.fold(0, u64::saturating_add)
    }

    fn groups(&self) -> impl Iterator<Item = &RowGroupMetaData> + Clone {
        self.reader.metadata().row_groups().iter()
    }

    /// A column by its name.
    fn column(&self, name: &str) -> Result<&Column> {
        let mut named = self.columns.iter().filter(|column| column.name == name);
        let shown = self.path.display();
        match (named.next(), named.next()) {
            (Some(column), None) => Ok(column),
            (Some(_), Some(_)) => Err(Error::refused(format!("`{shown}` has two columns called `{name}`"))),
            (None, _) => {
                let known = self.names().collect::<Vec<_>>().join(", ");
                let near = did_you_mean(name, self.names()).map(|near| format!(" (did you mean `{near}`?)"));
                Err(Error::refused(format!("there is no column `{name}`"))
                    .context(shown.to_string())
                    .hint(format!("the file has {known}{}", near.unwrap_or_default())))
            }
        }
    }

    /// Whether a column holds texts, or lists of messages; what it holds otherwise, as an error.
    ///
    /// # Errors
    /// There is no such column, or it holds something else.
    pub(super) fn check_text(&self, name: &str) -> Result<()> {
        let column = self.column(name).map_err(|e| e.hint("name a column as text_column"))?;
        if column.node.as_ref().is_ok_and(Node::is_text_or_messages) {
            return Ok(());
        }
        let message = format!("column `{name}` is of type {}, neither text nor a list of messages", column.kind);
        Err(Error::refused(message)
            .context(self.path.display().to_string())
            .hint("messages are list<struct<role: string, content: string>>; name another column as text_column"))
    }

    /// The rows, with the columns of these names.
    ///
    /// # Errors
    /// There is no such column, or it is of a type or compression that is not read. What is damaged is an error of its row.
    pub(super) fn rows(self, names: &[&str]) -> Result<TableRows> {
        let mut wanted = Vec::new();
        let mut leaves = Vec::new();
        for name in names {
            let column = self.column(name)?;
            let node = column.node.clone().map_err(|kind| {
                Error::refused(format!("column `{name}` is of type {}: {kind} is not read here", column.kind))
                    .context(self.path.display().to_string())
                    .hint("text, numbers, true and false, and lists and structs of them are")
            })?;
            wanted.push(((*name).to_owned(), node.numbered_from(leaves.len())));
            leaves.extend(column.leaves.clone());
        }
        for group in self.groups() {
            for leaf in &leaves {
                let Some(column) = group.columns().get(*leaf) else {
                    return Err(damaged(&self.path, "a row group has fewer columns than the file"));
                };
                let codec = column.compression_codec();
                if !READ.contains(&codec) {
                    let message = format!("`{}` is compressed with {codec:?}", self.path.display());
                    return Err(Error::refused(message).hint("write it with snappy, gzip, zstd or no compression"));
                }
            }
        }
        Ok(TableRows {
            table: self,
            wanted,
            columns: leaves,
            group: 0,
            leaves: Vec::new(),
            left: 0,
            batch: 0,
            row: 0,
            ended: false,
        })
    }
}

/// What to do about a file that is not as it was written.
const AGAIN: &str = "it may be damaged or cut off: copy, download or write it again";

fn damaged(path: &Path, why: impl Into<String>) -> Error {
    Error::refused(format!("`{}` is damaged", path.display())).cause(why.into()).hint(AGAIN)
}

/// The rows of a table, one after the other. After an error there are no more.
pub(super) struct TableRows {
    table: Table,
    /// Names of the columns and how their values are put together.
    wanted: Vec<(String, Node)>,
    /// Which columns of the file hold the leaves.
    columns: Vec<usize>,
    /// The next row group.
    group: usize,
    leaves: Vec<Leaf>,
    /// Rows of the group that are not decoded yet.
    left: usize,
    /// Rows that are decoded and not handed out.
    batch: usize,
    /// Rows that were handed out.
    row: usize,
    ended: bool,
}

impl TableRows {
    fn read(&mut self) -> Result<Option<Row>> {
        let path = self.table.path.clone();
        let of_file = |e: Fault| damaged(&path, e.0);
        while self.batch == 0 {
            if self.left > 0 {
                self.batch = self.left.min(BATCH);
                self.left -= self.batch;
                let batch = self.batch;
                self.leaves.iter_mut().try_for_each(|leaf| leaf.fill(batch)).map_err(of_file)?;
            } else {
                self.leaves.iter_mut().try_for_each(Leaf::finish).map_err(of_file)?;
                self.leaves.clear();
                if self.group == self.table.reader.num_row_groups() {
                    return Ok(None);
                }
                self.begin().map_err(of_file)?;
            }
        }
        self.batch -= 1;
        self.row += 1;
        let place = format!("{}, row {}", path.display(), self.row);
        let value = |node: &Node, leaves: &mut Vec<Leaf>| {
            assemble::value(node, leaves).map_err(|e| damaged(&path, e.0).context(place.clone()))
        };
        let mut row = Map::new();
        for (name, node) in &self.wanted {
            row.insert(name.clone(), value(node, &mut self.leaves)?);
        }
        self.leaves.iter().try_for_each(Leaf::at_row).map_err(|e| damaged(&path, e.0).context(place.clone()))?;
        Ok(Some((place, row)))
    }

    /// Begins the next row group.
    fn begin(&mut self) -> Result<(), Fault> {
        let group = guarded(|| Ok(self.table.reader.get_row_group(self.group)?))?;
        self.group += 1;
        self.left =
            usize::try_from(group.metadata().num_rows()).map_err(|_| Fault("a negative number of rows".into()))?;
        for column in &self.columns {
            let about = group.metadata().column(*column).column_descr_ptr();
            self.leaves.push(Leaf::new(about, guarded(|| Ok(group.get_column_reader(*column)?))?));
        }
        Ok(())
    }
}

impl Iterator for TableRows {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Result<Row>> {
        if self.ended {
            return None;
        }
        let row = self.read().transpose();
        self.ended = !matches!(row, Some(Ok(_)));
        row
    }
}

/// Why a file cannot be decoded.
#[derive(Debug)]
struct Fault(String);

impl From<ParquetError> for Fault {
    fn from(error: ParquetError) -> Self {
        Self(error.to_string())
    }
}

/// Lets the crate work on bytes that may be anything: of damaged pages it reads beyond the end, and panics there. What it worked on is
/// not used any more after that.
fn guarded<T>(work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(Fault("a page cannot be decoded".to_owned())))
}

/// A value of JSON for a float; what JSON has no word for is absent, as in a column of pandas.
fn float(number: f64) -> Value {
    serde_json::Number::from_f64(number).map_or(Value::Null, Value::Number)
}
