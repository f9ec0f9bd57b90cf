//! A curve as the event file that TensorBoard reads.
//!
//! The file is a row of records (TFRecord): the length of the data as u64, its masked checksum, the data, and their masked
//! checksum, all little-endian. The data of each is an `Event` of TensorFlow's event.proto, of which a few fields are
//! enough: `wall_time` (1), `step` (2), `file_version` (3), `summary` (5) with a `value` (1) of `tag` (1) and `simple_value` (2).

use super::curve::ordered;
use crate::store::Curve;

/// The name of the file within the folder of its run. TensorBoard looks for `tfevents`; behind it come time and host, which no
/// curve depends on.
pub const EVENTS_FILE: &str = "events.out.tfevents.0.workbench";

/// The bytes of an event file. TensorBoard's numbers are f32. The store does not know when a step was taken, so that every event is
/// of time 0, and equal curves give equal bytes: steps are the axis to look at.
///
/// `None` if a step is too large for TensorBoard, which counts them in i64.
pub fn tensorboard(curve: &Curve) -> Option<Vec<u8>> {
    let mut file = Vec::new();
    record(&mut file, &event(None, &field(3, b"brain.Event:2")));
    let order: Vec<&str> = ordered(curve).into_iter().map(|(name, _)| name).collect();
    for (step, values) in curve.steps() {
        let step = i64::try_from(step).ok()?;
        for name in &order {
            if let Some(value) = values.get(name) {
                // A number that f32 cannot hold becomes infinite or zero, as in TensorFlow.
                let number = [&[tag(2, FIXED_32)], &(*value as f32).to_le_bytes()[..]].concat();
                let value = [field(1, name.as_bytes()), number].concat();
                record(&mut file, &event(Some(step), &field(5, &field(1, &value))));
            }
        }
    }
    Some(file)
}

/// Wire types of protocol buffers.
const VARINT: u8 = 0;
const FIXED_64: u8 = 1;
const BYTES: u8 = 2;
const FIXED_32: u8 = 5;

fn tag(number: u8, wire: u8) -> u8 {
    number << 3 | wire
}

/// A field of bytes: a text, or a message of its own.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![tag(number, BYTES)];
    varint(&mut out, bytes.len() as u64);
    out.extend_from_slice(bytes);
    out
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn event(step: Option<i64>, what: &[u8]) -> Vec<u8> {
    let mut out = vec![tag(1, FIXED_64)];
    out.extend_from_slice(&0_f64.to_le_bytes());
    if let Some(step) = step {
        out.push(tag(2, VARINT));
        varint(&mut out, step.cast_unsigned());
    }
    out.extend_from_slice(what);
    out
}

fn record(file: &mut Vec<u8>, data: &[u8]) {
    let length = (data.len() as u64).to_le_bytes();
    file.extend_from_slice(&length);
    file.extend_from_slice(&masked(crc32c(&length)).to_le_bytes());
    file.extend_from_slice(data);
    file.extend_from_slice(&masked(crc32c(data)).to_le_bytes());
}

/// A checksum of data that hold checksums themselves: rotated and moved, as TFRecord has it.
fn masked(checksum: u32) -> u32 {
    checksum.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), RFC 3720 section 12.1, bit by bit: an event has a few dozen bytes.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut remainder = !0_u32;
    for byte in bytes {
        remainder ^= u32::from(*byte);
        for _ in 0..8 {
            let carry = (remainder & 1).wrapping_neg();
            remainder = remainder >> 1 ^ (0x82f6_3b78 & carry);
        }
    }
    !remainder
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, appendix B.4, and the check value of the catalogue of parametrised CRC algorithms.
    #[test]
    fn checksums_are_those_of_the_standard() {
        let counted: Vec<u8> = (0..32).collect();
        let backwards: Vec<u8> = (0..32).rev().collect();
        for (bytes, expected) in [
            (&b"123456789"[..], 0xe306_9283),
            (&[0; 32], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&counted, 0x46dd_794e),
            (&backwards, 0x113f_db5c),
            (&[], 0),
        ] {
            assert_eq!(crc32c(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn bytes_are_those_of_the_format() {
        let mut curve = Curve::default();
        curve.set(300, "loss", 1.5);
        let file = tensorboard(&curve).unwrap();
        // Version: 24 bytes of data. Loss: 9 of time, 3 of step, 2 + 2 + 6 + 5 of the summary.
        let mut version = vec![9, 0, 0, 0, 0, 0, 0, 0, 0, 0x1a, 13];
        version.extend(b"brain.Event:2");
        let mut loss = vec![9, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0xac, 0x02, 0x2a, 13, 0x0a, 11, 0x0a, 4];
        loss.extend(b"loss");
        loss.extend([0x15, 0, 0, 0xc0, 0x3f]);
        let (first, second) = (16 + version.len(), 16 + loss.len());
        assert_eq!(file.len(), first + second);
        assert_eq!((&file[..8], &file[12..12 + version.len()]), (&[24, 0, 0, 0, 0, 0, 0, 0][..], &version[..]));
        assert_eq!(&file[first + 12..first + 12 + loss.len()], &loss[..]);
        curve.set(u64::MAX, "loss", 1.0);
        assert_eq!(tensorboard(&curve), None);
    }
}
