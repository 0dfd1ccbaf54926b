use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
use super::amx;
#[cfg(target_arch = "aarch64")]
use super::neon::Neon;
#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Scalar, Simd};
use crate::{Error, Result};

/// The instruction sets that the CPU kernels are written for, each with all before it on its kind of
/// processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Whatever the compiler assumes of the target; the twin that the others are tested against.
    Scalar,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 with the F, BW, DQ and VL groups, as server processors have since 2017.
    Avx512,
    /// AVX-512 that multiplies bfloat16, as Intel's since Cooper Lake and AMD's since Zen 4.
    Avx512Bf16,
    /// Intel's matrix tiles of bfloat16 and int8, since Sapphire Rapids.
    Amx,
    /// 64-bit Arm.
    Neon,
}

/// Forces an instruction set, by its name.
const OVERRIDE: &str = "VLLM_CPU_ISA";

impl Isa {
    const ALL: [Self; 6] = [
        Self::Scalar,
        Self::Avx2,
        Self::Avx512,
        Self::Avx512Bf16,
        Self::Amx,
        Self::Neon,
    ];

    /// The instruction set in use: the best one this processor has, unless the environment variable
    /// `VLLM_CPU_ISA` names another. Decided on first use.
    ///
    /// # Errors
    /// The variable names something unknown, or something this processor lacks.
    pub fn current() -> Result<Self> {
        static CURRENT: OnceLock<Result<Isa, (String, String)>> = OnceLock::new();
        let choose = || match std::env::var_os(OVERRIDE) {
            Some(name) => Self::forced(&name.to_string_lossy()),
            None => Ok(Self::available().fold(Self::Scalar, |_, better| better)),
        };
        let current = CURRENT.get_or_init(choose).clone();
        current.map_err(|(name, reason)| Error::Isa(name, reason))
    }

    /// The instruction sets this processor has, best last.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_available())
    }

    /// Its name, as `VLLM_CPU_ISA` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512bf16",
            Self::Amx => "amx",
            Self::Neon => "neon",
        }
    }

    fn forced(name: &str) -> Result<Self, (String, String)> {
        let refuse = |reason: &str| Err((name.to_owned(), reason.to_owned()));
        match Self::ALL.into_iter().find(|isa| isa.name() == name) {
            None => refuse("known are scalar, avx2, avx512, avx512bf16, amx and neon"),
            Some(isa) if !isa.is_available() => refuse("this processor does not have it"),
            Some(isa) => Ok(isa),
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            Self::Avx512 => {
                Self::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            Self::Avx512Bf16 => {
                Self::Avx512.is_available() && is_x86_feature_detected!("avx512bf16")
            }
            Self::Amx => Self::Avx512Bf16.is_available() && amx::is_available(),
            Self::Neon => false,
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn is_available(self) -> bool {
        // Every 64-bit Arm processor has it.
        matches!(self, Self::Scalar | Self::Neon)
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn is_available(self) -> bool {
        self == Self::Scalar
    }

    /// Whether products of bfloat16 are made by instructions of their own, which take both factors
    /// as bfloat16.
    pub fn multiplies_bf16(self) -> bool {
        matches!(self, Self::Avx512Bf16 | Self::Amx)
    }

    /// Runs `kernel`, compiled for this instruction set.
    ///
    /// # Safety
    /// Whatever the kernel's own [`Kernel::run`] demands.
    pub(super) unsafe fn run<K: Kernel>(self, kernel: K) {
        assert!(self.is_available(), "{self:?} on a processor without it");
        // SAFETY: the caller vouches for the kernel, the assertion for the instructions.
        unsafe {
            match self {
                Self::Scalar => kernel.run::<Scalar>(),
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 => run_avx2(kernel),
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 => run_avx512(kernel),
                #[cfg(target_arch = "x86_64")]
                Self::Avx512Bf16 | Self::Amx => run_avx512_bf16(kernel),
                #[cfg(target_arch = "aarch64")]
                Self::Neon => kernel.run::<Neon>(),
                // Ruled out by the assertion.
                #[allow(unreachable_patterns)]
                _ => kernel.run::<Scalar>(),
            }
        }
    }
}

/// Work written once over vectors of any width. Implementations are `#[inline(always)]`, like all
/// they call, so that they are compiled for the instruction set they run on; closures are not.
pub(super) trait Kernel {
    /// # Safety
    /// The processor has the instructions of `S`; the pointers within are good.
    unsafe fn run<S: Simd>(self);
}

/// # Safety
/// As [`Kernel::run`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run_avx2<K: Kernel>(kernel: K) {
    // SAFETY: forwarded to the caller.
    unsafe { kernel.run::<Avx2>() }
}

/// # Safety
/// As [`Kernel::run`].
#[cfg(target_arch = "x86_64")]
// Without the VL group the compiler leaves the upper half of the registers unused.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn run_avx512<K: Kernel>(kernel: K) {
    // SAFETY: forwarded to the caller.
    unsafe { kernel.run::<Avx512>() }
}

/// # Safety
/// As [`Kernel::run`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
unsafe fn run_avx512_bf16<K: Kernel>(kernel: K) {
    // SAFETY: forwarded to the caller.
    unsafe { kernel.run::<Avx512>() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_override_takes_names_of_what_is_there() {
        for isa in Isa::available() {
            assert_eq!(Isa::forced(isa.name()), Ok(isa));
        }
        let (name, reason) = Isa::forced("mmx").unwrap_err();
        let message = Error::Isa(name, reason).to_string();
        assert!(message.contains("VLLM_CPU_ISA='mmx'"), "{message}");
    }
}
