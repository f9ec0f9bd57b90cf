//! Tensors as they cross the boundary: bytes, a dtype and a shape, borrowed or owned.

use std::borrow::Cow;

use abi_stable::std_types::{RBox, RSlice, RVec};
use abi_stable::{StableAbi, sabi_trait, sabi_trait::TD_Opaque};
use half::{bf16, f16};

use crate::error::{Error, ErrorKind};

/// Type of a tensor's elements, with the names that safetensors uses.
#[repr(u8)]
#[derive(StableAbi, Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[allow(missing_docs)]
pub enum Dtype {
    F64,
    F32,
    F16,
    BF16,
    #[serde(rename = "F8_E4M3")]
    F8E4M3,
    #[serde(rename = "F8_E5M2")]
    F8E5M2,
    #[serde(rename = "F8_E8M0")]
    F8E8M0,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    #[serde(rename = "BOOL")]
    Bool,
}

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::F8E4M3 | Self::F8E5M2 | Self::F8E8M0 | Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that a tensor can be viewed as. Any bit pattern is a valid value of it.
pub trait Element: Copy + Send + Sync + 'static + sealed::Sealed {
    /// The dtype it stands for.
    const DTYPE: Dtype;
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident),*) => {$(
        impl sealed::Sealed for $rust {}
        impl Element for $rust { const DTYPE: Dtype = Dtype::$dtype; }
    )*};
}
elements!(f64 => F64, f32 => F32, f16 => F16, bf16 => BF16, i64 => I64, i32 => I32, i16 => I16, i8 => I8,
    u64 => U64, u32 => U32, u16 => U16, u8 => U8);

/// Memory that one side owns and the other reads; dropping it runs the owner's destructor.
#[sabi_trait]
pub trait Storage: Send + Sync {
    /// The bytes, unchanged for as long as the storage lives.
    #[sabi(last_prefix_field)]
    fn bytes(&self) -> RSlice<'_, u8>;
}

struct Elements<T>(Vec<T>);

impl<T: Element> Storage for Elements<T> {
    fn bytes(&self) -> RSlice<'_, u8> {
        RSlice::from_slice(as_bytes(&self.0))
    }
}

#[repr(u8)]
#[derive(StableAbi)]
enum Data<'a> {
    Borrowed(RSlice<'a, u8>),
    Owned(Storage_TO<'static, RBox<()>>),
}

/// A row-major tensor in host byte order.
///
/// Borrowed ones point into the other side's memory (a mapped checkpoint, a weight): nothing is copied.
#[repr(C)]
#[derive(StableAbi)]
pub struct Tensor<'a> {
    data: Data<'a>,
    shape: RVec<usize>,
    dtype: Dtype,
}

impl<'a> Tensor<'a> {
    /// A view of bytes.
    ///
    /// # Errors
    /// The number of bytes is not what dtype and shape say.
    pub fn from_bytes(dtype: Dtype, shape: &[usize], bytes: &'a [u8]) -> Result<Self, Error> {
        Self { data: Data::Borrowed(RSlice::from_slice(bytes)), shape: shape.to_vec().into(), dtype }.checked()
    }

    /// A view of values.
    ///
    /// # Errors
    /// The number of values is not what the shape says.
    pub fn from_slice<T: Element>(shape: &[usize], values: &'a [T]) -> Result<Self, Error> {
        Self::from_bytes(T::DTYPE, shape, as_bytes(values))
    }

    /// A tensor that owns its values; they are handed over, not copied.
    ///
    /// # Errors
    /// The number of values is not what the shape says.
    pub fn from_vec<T: Element>(shape: &[usize], values: Vec<T>) -> Result<Tensor<'static>, Error> {
        let storage = Storage_TO::from_value(Elements(values), TD_Opaque);
        Tensor { data: Data::Owned(storage), shape: shape.to_vec().into(), dtype: T::DTYPE }.checked()
    }

    /// The tensor itself, if its bytes are as many as its dtype and shape say. The receiving side asks, since the other
    /// one may be at fault.
    pub(crate) fn checked(self) -> Result<Self, Error> {
        let expected = self.shape.iter().try_fold(self.dtype.size(), |bytes, &n| bytes.checked_mul(n));
        match expected {
            Some(expected) if expected == self.bytes().len() => Ok(self),
            _ => Err(Error::new(
                ErrorKind::Input,
                format!(
                    "a {:?} tensor of shape {:?} cannot have {} bytes",
                    self.dtype,
                    self.shape(),
                    self.bytes().len()
                ),
            )),
        }
    }

    /// Type of the elements.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Sizes, outermost dimension first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The two sizes of a matrix: rows and columns.
    ///
    /// # Errors
    /// The tensor has another number of dimensions.
    pub fn matrix_shape(&self) -> Result<(usize, usize), Error> {
        match self.shape() {
            &[rows, columns] => Ok((rows, columns)),
            other => Err(Error::new(ErrorKind::Input, format!("expected a matrix, found a tensor of shape {other:?}"))),
        }
    }

    /// The elements as they lie in memory.
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Borrowed(bytes) => bytes.as_slice(),
            Data::Owned(storage) => storage.bytes().as_slice(),
        }
    }

    /// The elements without copying them.
    ///
    /// # Errors
    /// The tensor is of another dtype, or lies at an address that the type cannot be read from (a shard may place its
    /// tensors anywhere): [`Tensor::to_f32`] reads both.
    pub fn values<T: Element>(&self) -> Result<&[T], Error> {
        if self.dtype != T::DTYPE {
            return Err(Error::new(ErrorKind::Input, format!("the tensor holds {:?}, not {:?}", self.dtype, T::DTYPE)));
        }
        // SAFETY: every bit pattern is a valid `T` (the trait is sealed over plain numbers), and `align_to` keeps only
        // what is aligned.
        #[allow(unsafe_code)]
        let (before, values, after) = unsafe { self.bytes().align_to::<T>() };
        if before.is_empty() && after.is_empty() {
            Ok(values)
        } else {
            Err(Error::new(ErrorKind::Input, format!("the tensor is not aligned for {:?}", T::DTYPE)))
        }
    }

    /// The elements as f32: without copying where they are f32 already, else widened (or, from f64, narrowed).
    ///
    /// # Errors
    /// The tensor holds integers or 8-bit floats, which mean nothing without their scale.
    pub fn to_f32(&self) -> Result<Cow<'_, [f32]>, Error> {
        if let Ok(values) = self.values::<f32>() {
            return Ok(Cow::Borrowed(values));
        }
        let bytes = self.bytes();
        Ok(Cow::Owned(match self.dtype {
            Dtype::F32 => widen(bytes, f32::from_le_bytes),
            Dtype::BF16 => widen(bytes, |b| bf16::from_le_bytes(b).to_f32()),
            Dtype::F16 => widen(bytes, |b| f16::from_le_bytes(b).to_f32()),
            Dtype::F64 => widen(bytes, |b| f64::from_le_bytes(b) as f32),
            other => {
                return Err(Error::new(ErrorKind::Input, format!("a tensor of {other:?} has no values as f32")));
            }
        }))
    }

    /// The same elements, owned: what outlives the other side's buffer.
    pub fn into_owned(self) -> Tensor<'static> {
        let data = match self.data {
            Data::Owned(storage) => Data::Owned(storage),
            // A copy of plain bytes may be aligned for less than its dtype; `to_f32` reads it all the same.
            Data::Borrowed(bytes) => {
                Data::Owned(Storage_TO::from_value(Elements(bytes.as_slice().to_vec()), TD_Opaque))
            }
        };
        Tensor { data, shape: self.shape, dtype: self.dtype }
    }
}

fn widen<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| value(*chunk)).collect()
}

fn as_bytes<T: Element>(values: &[T]) -> &[u8] {
    // SAFETY: `Element` is sealed over numbers without padding, and a byte has no alignment to respect.
    #[allow(unsafe_code)]
    unsafe {
        std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_float_type_reads_as_f32_from_any_address() {
        let expected = [0.0f32, -1.5, 3.25, 65504.0];
        let halves = expected.map(f16::from_f32);
        let doubles = expected.map(f64::from);
        let brains = [0.0f32, -1.5, 3.25, 65536.0].map(bf16::from_f32);
        assert_eq!(*Tensor::from_slice(&[4], &halves).unwrap().to_f32().unwrap(), expected);
        assert_eq!(*Tensor::from_slice(&[2, 2], &doubles).unwrap().to_f32().unwrap(), expected);
        assert_eq!(*Tensor::from_slice(&[4], &brains).unwrap().to_f32().unwrap(), [0.0, -1.5, 3.25, 65536.0]);

        let mut shifted = [0u8; 17];
        shifted[1..].copy_from_slice(as_bytes(&expected));
        let unaligned = Tensor::from_bytes(Dtype::F32, &[4], &shifted[1..]).unwrap();
        let aligned = Tensor::from_slice(&[4], &expected).unwrap();
        assert_eq!(*unaligned.to_f32().unwrap(), expected);
        assert!(matches!(aligned.to_f32().unwrap(), Cow::Borrowed(_)));
    }

    #[test]
    fn shapes_that_lie_are_refused() {
        assert!(Tensor::from_slice(&[3], &[1.0f32, 2.0]).is_err());
        assert!(Tensor::from_bytes(Dtype::F32, &[usize::MAX, 2], &[]).is_err());
        assert!(Tensor::from_vec(&[2, 2], vec![0i8; 3]).is_err());
        assert!(Tensor::from_vec(&[2], vec![0i8; 2]).unwrap().values::<u8>().is_err());
        assert!(Tensor::from_vec(&[2], vec![0i8; 2]).unwrap().to_f32().is_err());
    }

    #[test]
    fn dropping_an_owned_tensor_frees_it_once() {
        let tensor = Tensor::from_vec(&[3], vec![1u32, 2, 3]).unwrap();
        assert_eq!(tensor.values::<u32>().unwrap(), [1, 2, 3]);
        drop(tensor.into_owned());
    }
}
