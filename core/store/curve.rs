//! What a node reported step by step: a file of the result, and how it is read again.

use std::{collections::BTreeMap, fs};

use super::{Object, Scratch};
use crate::error::{Error, Result};

/// The curve of a result: a line for each step, a column for each metric.
pub(super) const CURVE: &str = "curve.csv";

/// The name of the first column.
const STEP: &str = "step";

/// Numbers by metric and step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curve {
    metrics: BTreeMap<String, BTreeMap<u64, f64>>,
}

impl Curve {
    /// Takes a number; a later one of the same step and name takes its place. Returns the one that was there.
    pub fn set(&mut self, step: u64, name: &str, value: f64) -> Option<f64> {
        match self.metrics.get_mut(name) {
            Some(values) => values.insert(step, value),
            None => {
                self.metrics.insert(name.to_owned(), BTreeMap::from([(step, value)]));
                None
            }
        }
    }

    /// The number of a step.
    pub fn get(&self, step: u64, name: &str) -> Option<f64> {
        self.metrics.get(name)?.get(&step).copied()
    }

    /// How many numbers there are.
    pub fn len(&self) -> usize {
        self.metrics.values().map(BTreeMap::len).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.metrics.is_empty()
    }

    /// Metrics by name, each with its numbers by step.
    pub fn metrics(&self) -> impl Iterator<Item = (&str, &BTreeMap<u64, f64>)> {
        self.metrics.iter().map(|(name, values)| (name.as_str(), values))
    }

    /// The numbers by step, then by name.
    pub fn steps(&self) -> BTreeMap<u64, BTreeMap<&str, f64>> {
        let mut steps: BTreeMap<u64, BTreeMap<&str, f64>> = BTreeMap::new();
        for (name, values) in &self.metrics {
            for (step, value) in values {
                steps.entry(*step).or_default().insert(name, *value);
            }
        }
        steps
    }

    /// A table: `step`, then the metrics in the order of their names; the steps in theirs. A number is the shortest text that is
    /// read as the same number again (`NaN` and `inf` as such); what was not reported at a step is empty.
    ///
    /// # Errors
    /// Memory cannot be written to, which does not happen.
    pub fn to_csv(&self) -> Result<String> {
        let failed = |error: String| Error::internal(format!("a curve cannot be written as CSV: {error}"));
        let mut writer = csv::Writer::from_writer(Vec::new());
        let header = std::iter::once(STEP).chain(self.metrics.keys().map(String::as_str));
        writer.write_record(header).map_err(|e| failed(e.to_string()))?;
        for (step, values) in self.steps() {
            let cell = |name: &String| values.get(name.as_str()).map_or_else(String::new, |value| format!("{value:?}"));
            let line = std::iter::once(step.to_string()).chain(self.metrics.keys().map(cell));
            writer.write_record(line).map_err(|e| failed(e.to_string()))?;
        }
        let bytes = writer.into_inner().map_err(|e| failed(e.to_string()))?;
        String::from_utf8(bytes).map_err(|e| failed(e.to_string()))
    }

    /// Reads what [`to_csv`](Self::to_csv) wrote; the error says what is not.
    fn from_csv(bytes: &[u8]) -> std::result::Result<Self, String> {
        let mut reader = csv::Reader::from_reader(bytes);
        let header = reader.headers().map_err(|e| e.to_string())?.clone();
        if header.get(0) != Some(STEP) {
            return Err(format!("its first column is no `{STEP}`"));
        }
        let mut curve = Self::default();
        for line in reader.records() {
            let line = line.map_err(|e| e.to_string())?;
            let mut cells = line.iter();
            let step = cells.next().unwrap_or_default();
            let step = step.parse().map_err(|_| format!("`{step}` is no step"))?;
            for (name, cell) in header.iter().skip(1).zip(cells).filter(|(_, cell)| !cell.is_empty()) {
                let value = cell.parse().map_err(|_| format!("`{cell}` is no number"))?;
                if curve.set(step, name, value).is_some() {
                    return Err(format!("it has step {step} twice"));
                }
            }
        }
        Ok(curve)
    }
}

impl Scratch {
    /// Writes what the node reported step by step.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_curve(&self, curve: &Curve) -> Result<()> {
        super::write_atomic(&self.file(CURVE), curve.to_csv()?.as_bytes())
    }
}

impl Object {
    /// What the node reported step by step; `None` if that was nothing, or if the result was made when curves were not kept.
    ///
    /// # Errors
    /// The file is not the one that was written.
    pub fn curve(&self) -> Result<Option<Curve>> {
        let Some(bytes) = self.file_if_any(CURVE)? else { return Ok(None) };
        let path = self.path().join(CURVE);
        Curve::from_csv(&bytes).map(Some).map_err(|why| self.damaged(format!("`{}`: {why}", path.display())))
    }

    /// A file of a result that not every result has.
    fn file_if_any(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let manifest = self.manifest()?;
        let promised = manifest.as_ref().is_some_and(|manifest| manifest.digest(name).is_some());
        match fs::symlink_metadata(self.path().join(name)) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !promised => Ok(None),
            _ => self.read(name, manifest.as_ref()).map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read_as_they_were_written() {
        let mut curve = Curve::default();
        let odd = [0.1 + 0.2, 5e-324, -0.0, 1e300, f64::MAX, f64::INFINITY, 123_456_789.0];
        for (step, value) in (1..).zip(odd) {
            curve.set(step * 10, "loss", value);
        }
        curve.set(u64::MAX, "step", 1.0);
        curve.set(10, "a \"name\", of\nsomebody", 2.0);
        curve.set(20, "", 1.5);
        assert_eq!(curve.set(10, "loss", 4.0), Some(0.1 + 0.2));
        let text = curve.to_csv().unwrap();
        let read = Curve::from_csv(text.as_bytes()).unwrap();
        assert_eq!(read, curve);
        assert!(read.get(30, "loss").unwrap().is_sign_negative());
        assert_eq!((read.len(), read.get(10, "loss"), read.get(11, "loss")), (10, Some(4.0), None));
        assert_eq!(read.to_csv().unwrap(), text);
    }

    #[test]
    fn a_table_is_what_it_looks_like() {
        let mut curve = Curve::default();
        curve.set(2, "loss", 0.5);
        curve.set(1, "rate", 1e-7);
        curve.set(1, "loss", 1.0);
        curve.set(2, "rate", f64::NAN);
        curve.set(3, "rate", 1.0 / 3.0);
        assert_eq!(curve.to_csv().unwrap(), "step,loss,rate\n1,1.0,1e-7\n2,0.5,NaN\n3,,0.3333333333333333\n");
        for wrong in ["loss\n1\n", "step,loss\n1.5,1\n", "step,loss\n1,x\n", "step,loss\n1,1\n1,2\n", "step,loss\n1\n"]
        {
            assert!(Curve::from_csv(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
