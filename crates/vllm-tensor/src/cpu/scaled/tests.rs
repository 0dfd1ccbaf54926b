use half::bf16;

use super::widen::WidenToF32;
use super::*;
use crate::cpu::isa::Isa;
use crate::cpu::panels::PANEL;
use crate::test_support::random;

fn forms() -> [ScaledForm; 2] {
    let mut table = [0.0; 16];
    table.copy_from_slice(&random(1, 16));
    [ScaledForm::Fp8, ScaledForm::Table(table)]
}

/// Codes of all kinds but those that are no number.
fn panels(form: ScaledForm, rows: usize, columns: usize, group_len: usize) -> ScaledPanels {
    let read = |row: usize, codes: &mut [u8], scales: &mut [f32]| {
        for (column, code) in codes.iter_mut().enumerate() {
            let byte = ((row * 131 + column * 29) % 256) as u8;
            *code = match form {
                ScaledForm::Fp8 if byte & 0x7f == 0x7f => 0,
                ScaledForm::Fp8 => byte,
                ScaledForm::Table(_) => byte & 15,
            };
        }
        scales.copy_from_slice(&random(row as u64, scales.len()));
        Ok::<_, crate::Error>(())
    };
    ScaledPanels::from_rows(form, (rows, columns), group_len, true, read).unwrap()
}

#[test]
fn widened_panels_hold_the_rows() {
    for form in forms() {
        for (rows, columns, group_len) in [(16, 64, 64), (5, 70, 70), (20, 96, 32), (33, 100, 16)] {
            let panels = panels(form, rows, columns, group_len);
            let padded = columns.next_multiple_of(32);
            for row in 0..rows {
                let mut numbers = vec![0.0; columns];
                panels.copy_row(row, &mut numbers);
                let (panel, lane) = (row / PANEL, row % PANEL);
                for isa in Isa::available() {
                    let mut wide = vec![f32::NAN; columns * PANEL];
                    let kernel = WidenToF32 {
                        panels: &panels,
                        panel,
                        to: wide.as_mut_ptr(),
                    };
                    // SAFETY: there is room for the columns.
                    unsafe { isa.run(kernel) };
                    for (column, number) in numbers.iter().enumerate() {
                        assert_eq!(wide[column * PANEL + lane], *number, "{isa:?} {form:?}");
                    }
                }
                #[cfg(target_arch = "x86_64")]
                if Isa::available().any(Isa::multiplies_bf16) {
                    let mut wide = vec![0u16; padded * PANEL];
                    // SAFETY: the instructions are there, and room for the columns.
                    unsafe { super::widen::widen_to_bf16(&panels, panel, wide.as_mut_ptr()) };
                    for (column, number) in numbers.iter().enumerate() {
                        let actual = wide[column / 2 * 2 * PANEL + lane * 2 + column % 2];
                        let expected = bf16::from_f32(*number);
                        assert_eq!(bf16::from_bits(actual), expected, "{form:?} {row} {column}");
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_no_number_stays_none() {
    let read = |row: usize, codes: &mut [u8], scales: &mut [f32]| {
        codes.fill(if row == 1 { 0xff } else { 0x38 });
        scales.fill(1.0);
        Ok::<_, crate::Error>(())
    };
    let panels = ScaledPanels::from_rows(ScaledForm::Fp8, (3, 32), 32, true, read).unwrap();
    let mut row = [0.0; 32];
    panels.copy_row(1, &mut row);
    assert!(row[0].is_nan());
    panels.copy_row(2, &mut row);
    assert_eq!(row, [1.0; 32]);
}

#[test]
fn groups_that_cut_pairs_are_refused() {
    let read = |_: usize, _: &mut [u8], _: &mut [f32]| Ok::<_, crate::Error>(());
    let refused = ScaledPanels::from_rows(ScaledForm::Fp8, (3, 32), 5, true, read);
    assert!(refused.unwrap_err().to_string().contains("even number"));
    let failed =
        ScaledPanels::from_rows(ScaledForm::Fp8, (40, 32), 32, true, |row, _, _| match row {
            33 => Err(crate::Error::Batch("row 33".to_owned())),
            _ => Ok(()),
        });
    assert!(failed.unwrap_err().to_string().contains("row 33"));
}
