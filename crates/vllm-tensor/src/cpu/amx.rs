//! Intel's matrix tiles (AMX), written in assembly: Rust's own functions for them are unstable.
//!
//! A tile holds 16 rows of 64 bytes. `TDPBF16PS` multiplies a tile of rows, `[16, 32]` in bfloat16,
//! by a tile of weights, `[16 pairs of inputs, 16 outputs, 2]`, into sums `[16, 16]` in float32. What
//! it adds to a sum depends on that sum's own row and column alone.

use std::arch::asm;

pub(super) use super::rows::{TILE, TILE_INPUTS};

/// Whether the processor has tiles and the system lets this process use them.
pub(super) fn is_available() -> bool {
    static AVAILABLE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *AVAILABLE.get_or_init(|| has_tiles() && system_permits())
}

/// Whether CPUID lists AMX-TILE, AMX-BF16 and AMX-INT8.
fn has_tiles() -> bool {
    const WANTED: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    let highest_leaf = std::arch::x86_64::__cpuid(0).eax;
    highest_leaf >= 7 && std::arch::x86_64::__cpuid_count(7, 0).edx & WANTED == WANTED
}

/// Asks Linux for the tiles' part of the register state: programs that do not ask are stopped at the
/// first tile instruction. The answer holds for all threads.
#[cfg(target_os = "linux")]
fn system_permits() -> bool {
    const SYS_ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    let result: i64;
    // SAFETY: the call reads no memory and changes only what the process may use.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") SYS_ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn system_permits() -> bool {
    false
}

/// The shapes of the eight tiles, as `LDTILECFG` reads them.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub(super) struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl TileConfig {
    /// Tiles of 64 bytes a row, with so many rows each.
    pub(super) fn with_rows(rows: [usize; 8]) -> Self {
        Self::with_shapes(rows.map(|rows| (rows, 64)))
    }

    /// Tiles of so many rows and bytes a row.
    pub(super) fn with_shapes(shapes: [(usize, usize); 8]) -> Self {
        let mut config = Self {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        for (tile, (rows, row_bytes)) in shapes.into_iter().enumerate() {
            debug_assert!((1..=TILE).contains(&rows) && (1..=64).contains(&row_bytes));
            config.rows[tile] = rows as u8;
            config.row_bytes[tile] = row_bytes as u16;
        }
        config
    }
}

/// Fetches the 1,024 bytes at some distance from a register, 16 lines.
macro_rules! fetch {
    ($hint:literal, $from:literal, $($offset:literal),*) => {
        concat!($("prefetch", $hint, " [{", $from, "}+", $offset, "]\n"),*)
    };
}

/// Fetches the tile of weights that is four tiles ahead from memory into the second-level cache: it
/// keeps more requests in flight than the first.
macro_rules! fetch_from_memory {
    ($weights:literal) => {
        concat!(
            fetch!(
                "t1", $weights, "4096", "4160", "4224", "4288", "4352", "4416", "4480", "4544"
            ),
            fetch!(
                "t1", $weights, "4608", "4672", "4736", "4800", "4864", "4928", "4992", "5056"
            )
        )
    };
}

/// Fetches the next tile into the first-level cache: loads of tiles wait for each line that is not
/// there, and too few of them are in flight to hide that.
macro_rules! fetch_next_tile {
    ($tiles:literal) => {
        concat!(
            fetch!(
                "t0", $tiles, "1024", "1088", "1152", "1216", "1280", "1344", "1408", "1472"
            ),
            fetch!(
                "t0", $tiles, "1536", "1600", "1664", "1728", "1792", "1856", "1920", "1984"
            )
        )
    };
}

/// Leaves in memory what is there.
macro_rules! fetch_nothing {
    ($weights:literal) => {
        ""
    };
}

/// Where a kernel reads and writes. Tiles of `x` and of a panel of weights are contiguous and follow
/// one another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operands {
    /// `k_tiles` tiles of rows.
    pub(super) x: *const u16,
    /// Elements from one block of 16 rows to the next.
    pub(super) x_stride: usize,
    /// `k_tiles` tiles of weights.
    pub(super) weights: *const u16,
    /// Elements from one panel to the next.
    pub(super) panel_stride: usize,
    /// Tiles along the inputs, at least one.
    pub(super) k_tiles: usize,
    /// Sums, with those of panel `p` at `16 p` of each row.
    pub(super) y: *mut f32,
    /// Elements from one row of `y` to the next.
    pub(super) y_stride: usize,
}

/// One block of at most 16 rows times four panels. `config` gives the first five tiles as many rows
/// as there are.
///
/// # Safety
/// AMX is available, and the operands are good for 16 rows of `x`, the rows of `config` of `y`, and
/// four panels.
pub(super) unsafe fn rows_by_four_panels(config: &TileConfig, operands: Operands) {
    let Operands {
        weights,
        panel_stride,
        ..
    } = operands;
    // SAFETY: the caller's promise; nothing else uses tiles.
    unsafe {
        asm!(
            "ldtilecfg [{config}]",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            fetch_from_memory!("w0"),
            fetch_next_tile!("w0"),
            "tileloadd tmm4, [{x}+{row}*1]",
            "tileloadd tmm5, [{w0}+{row}*1]",
            "tdpbf16ps tmm0, tmm4, tmm5",
            fetch_from_memory!("w1"),
            fetch_next_tile!("w1"),
            "tileloadd tmm6, [{w1}+{row}*1]",
            "tdpbf16ps tmm1, tmm4, tmm6",
            fetch_from_memory!("w2"),
            fetch_next_tile!("w2"),
            "tileloadd tmm7, [{w2}+{row}*1]",
            "tdpbf16ps tmm2, tmm4, tmm7",
            fetch_from_memory!("w3"),
            fetch_next_tile!("w3"),
            "tileloadd tmm5, [{w3}+{row}*1]",
            "tdpbf16ps tmm3, tmm4, tmm5",
            "add {x}, 1024",
            "add {w0}, 1024",
            "add {w1}, 1024",
            "add {w2}, 1024",
            "add {w3}, 1024",
            "dec {k}",
            "jnz 2b",
            "tilestored [{y}+{y_row}*1], tmm0",
            "tilestored [{y}+{y_row}*1+64], tmm1",
            "tilestored [{y}+{y_row}*1+128], tmm2",
            "tilestored [{y}+{y_row}*1+192], tmm3",
            "tilerelease",
            config = in(reg) config,
            x = inout(reg) operands.x => _,
            w0 = inout(reg) weights => _,
            w1 = inout(reg) weights.add(panel_stride) => _,
            w2 = inout(reg) weights.add(2 * panel_stride) => _,
            w3 = inout(reg) weights.add(3 * panel_stride) => _,
            k = inout(reg) operands.k_tiles => _,
            row = in(reg) 64usize,
            y = in(reg) operands.y,
            y_row = in(reg) 4 * operands.y_stride,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// The configuration for [`rows_by_four_panels`] and [`rows_by_panel`] of `rows` rows.
pub(super) fn one_block_config(rows: usize) -> TileConfig {
    TileConfig::with_rows([rows, rows, rows, rows, rows, TILE, TILE, TILE])
}

/// One block of at most 16 rows times one panel.
///
/// # Safety
/// As [`rows_by_four_panels`], for one panel.
pub(super) unsafe fn rows_by_panel(config: &TileConfig, operands: Operands) {
    // SAFETY: the caller's promise; nothing else uses tiles.
    unsafe {
        asm!(
            "ldtilecfg [{config}]",
            "tilezero tmm0",
            "2:",
            fetch_from_memory!("w0"),
            "tileloadd tmm4, [{x}+{row}*1]",
            "tileloadd tmm5, [{w0}+{row}*1]",
            "tdpbf16ps tmm0, tmm4, tmm5",
            "add {x}, 1024",
            "add {w0}, 1024",
            "dec {k}",
            "jnz 2b",
            "tilestored [{y}+{y_row}*1], tmm0",
            "tilerelease",
            config = in(reg) config,
            x = inout(reg) operands.x => _,
            w0 = inout(reg) operands.weights => _,
            k = inout(reg) operands.k_tiles => _,
            row = in(reg) 64usize,
            y = in(reg) operands.y,
            y_row = in(reg) 4 * operands.y_stride,
            out("tmm0") _, out("tmm4") _, out("tmm5") _,
            options(nostack),
        );
    }
}

/// The assembly of [`two_blocks_by_two_panels`], with what is to be fetched.
macro_rules! two_by_two {
    ($fetch:ident, $config:ident, $operands:ident) => {{
        let Operands {
            x,
            weights,
            y,
            y_stride,
            ..
        } = $operands;
        asm!(
            "ldtilecfg [{config}]",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            $fetch!("w0"),
            fetch_next_tile!("w0"),
            "tileloadd tmm4, [{x0}+{row}*1]",
            "tileloadd tmm6, [{w0}+{row}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            $fetch!("w1"),
            fetch_next_tile!("w1"),
            "tileloadd tmm7, [{w1}+{row}*1]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            fetch_next_tile!("x0"),
            "tileloadd tmm5, [{x1}+{row}*1]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            fetch_next_tile!("x1"),
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {x0}, 1024",
            "add {x1}, 1024",
            "add {w0}, 1024",
            "add {w1}, 1024",
            "dec {k}",
            "jnz 2b",
            "tilestored [{y0}+{y_row}*1], tmm0",
            "tilestored [{y0}+{y_row}*1+64], tmm1",
            "tilestored [{y1}+{y_row}*1], tmm2",
            "tilestored [{y1}+{y_row}*1+64], tmm3",
            "tilerelease",
            config = in(reg) $config,
            x0 = inout(reg) x => _,
            x1 = inout(reg) x.add($operands.x_stride) => _,
            w0 = inout(reg) weights => _,
            w1 = inout(reg) weights.add($operands.panel_stride) => _,
            k = inout(reg) $operands.k_tiles => _,
            row = in(reg) 64usize,
            y0 = in(reg) y,
            y1 = in(reg) y.add(TILE * y_stride),
            y_row = in(reg) 4 * y_stride,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    }};
}

/// Two blocks of rows, the first of 16 and the second of at most 16, times two panels.
///
/// `first` says that the weights may not be in a cache yet. Fetching what is there already would cost more
/// than it brings.
///
/// # Safety
/// AMX is available, and the operands are good for 32 rows of `x`, the rows of `config` of `y`, and
/// two panels.
pub(super) unsafe fn two_blocks_by_two_panels(
    config: &TileConfig,
    operands: Operands,
    first: bool,
) {
    // SAFETY: the caller's promise; nothing else uses tiles.
    unsafe {
        if first {
            two_by_two!(fetch_from_memory, config, operands);
        } else {
            two_by_two!(fetch_nothing, config, operands);
        }
    }
}

/// The configuration for [`two_blocks_by_two_panels`] with `rows` rows in the second block.
pub(super) fn two_block_config(rows: usize) -> TileConfig {
    TileConfig::with_rows([TILE, TILE, rows, rows, TILE, rows, TILE, TILE])
}
