//! The dtypes of scales and zero-points, by their torch names.

use serde::{Deserialize, Serialize};

/// Declares an enum whose JSON form is a torch dtype name, read with or without the prefix `torch.`.
macro_rules! torch_dtype {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// The name of the dtype without the prefix `torch.`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&format_args!("torch.{}", self.name()))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                match text.strip_prefix("torch.").unwrap_or(&text) {
                    $($text => Ok(Self::$variant),)*
                    _ => Err(serde::de::Error::custom(format!(
                        concat!("unknown dtype `{}`, expected one of", $(" `torch.", $text, "`",)*), text
                    ))),
                }
            }
        }
    };
}

torch_dtype! {
    /// The dtype in which a scale is stored.
    ScaleDtype {
        /// IEEE single precision.
        F32 = "float32",
        /// bfloat16.
        Bf16 = "bfloat16",
        /// IEEE half precision.
        F16 = "float16",
        /// FP8 E4M3, the group scales of NVFP4.
        F8E4M3 = "float8_e4m3fn",
        /// A power of two stored as its biased exponent (E8M0), the scales of the MX formats.
        E8M0 = "uint8",
    }
}

torch_dtype! {
    /// The dtype in which a zero-point is stored.
    ZeroPointDtype {
        /// The usual one of integer codes.
        I8 = "int8",
        /// Wider integers, read but never needed.
        I16 = "int16",
        /// Wider integers, read but never needed.
        I32 = "int32",
        /// Named by the MX presets, which have no zero-point.
        U8 = "uint8",
        /// Named by the NVFP4 presets, which have no zero-point.
        F8E4M3 = "float8_e4m3fn",
    }
}
