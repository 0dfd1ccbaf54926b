use super::*;
use crate::test_support::random;

/// Bits, group, zero and minima of every form, those of the GGML types first.
const FORMS: [(u32, usize, u8, bool); 12] = [
    (2, 16, 0, true),
    (3, 16, 4, false),
    (4, 32, 8, false),
    (4, 32, 0, true),
    (5, 32, 16, false),
    (5, 32, 0, true),
    (6, 16, 32, false),
    (8, 32, 128, false),
    (8, 32, 0, true),
    (8, 16, 128, false),
    (8, 16, 0, true),
    (4, 128, 8, false),
];

const SIZES: [(usize, usize, usize); 9] = [
    (1, 32, 16),
    (1, 256, 40),
    (2, 64, 17),
    (3, 48, 5),
    (7, 100, 33),
    (13, 288, 70),
    (33, 64, 16),
    (46, 96, 20),
    (300, 160, 150),
];

fn tiers() -> Vec<Tier> {
    let mut tiers: Vec<Tier> = Isa::available().map(Tier::of).collect();
    tiers.dedup();
    tiers
}

fn matrix(form: CodeForm, rows: usize, columns: usize) -> Arc<QuantizedPanels> {
    let panels = QuantizedPanels::from_rows::<crate::Error>(form, rows, columns, |row, codes| {
        let numbers = random(row as u64, 2 * columns);
        let limit = 1u32 << form.bits();
        for (code, number) in codes.codes.iter_mut().zip(&numbers) {
            *code = ((number + 1.0) / 2.0 * limit as f32) as u8;
        }
        let groups = codes.scales.len();
        codes
            .scales
            .copy_from_slice(&numbers[columns..columns + groups]);
        if form.has_mins() {
            codes
                .mins
                .copy_from_slice(&numbers[columns + groups..columns + 2 * groups]);
        }
        Ok(())
    });
    Arc::new(panels.unwrap())
}

/// Activations as a tier rounds them.
fn rounded(tier: Tier, x: &[f32], columns: usize) -> Vec<f64> {
    #[cfg(target_arch = "x86_64")]
    if tier == Tier::Tiles {
        return x
            .iter()
            .map(|x| half::bf16::from_f32(*x).to_f64())
            .collect();
    }
    let rows = QuantizedRows::new(tier, x, columns, 32).unwrap();
    let numbers = (0..x.len() / columns).flat_map(|row| {
        let row = rows.row(row);
        let number = move |column: usize| {
            f64::from(row.codes[column]) * f64::from(row.scales[column / CHUNK])
        };
        (0..columns).map(number)
    });
    numbers.collect()
}

/// Sums in float64 over activations and weights as they are kept.
fn expected(tier: Tier, x: &[f32], panels: &QuantizedPanels) -> Vec<f64> {
    let columns = panels.columns();
    let weights: Vec<Vec<f32>> = (0..panels.rows())
        .map(|row| {
            let mut numbers = vec![0.0; columns];
            panels.copy_row(row, &mut numbers);
            numbers
        })
        .collect();
    let x = rounded(tier, x, columns);
    let products = x.chunks_exact(columns).flat_map(|row| {
        let sum = |weight: &Vec<f32>| -> f64 {
            let products = row.iter().zip(weight).map(|(x, w)| x * f64::from(*w));
            products.sum()
        };
        weights.iter().map(sum).collect::<Vec<_>>()
    });
    products.collect()
}

#[test]
fn products_are_right_for_every_form_at_odd_sizes() {
    for (bits, group_len, zero, has_mins) in FORMS {
        let form = CodeForm::new(bits, group_len, zero, has_mins).unwrap();
        for (num_rows, columns, outputs) in SIZES {
            let panels = matrix(form, outputs, columns);
            let x = random(77, num_rows * columns);
            let parts = [panels];
            for tier in tiers() {
                let expected = expected(tier, &x, &parts[0]);
                let largest = expected
                    .iter()
                    .fold(0f64, |largest, number| largest.max(number.abs()));
                let y = multiply(tier, &x, &parts, None).unwrap();
                for (actual, expected) in y.iter().zip(&expected) {
                    let difference = (f64::from(*actual) - expected).abs();
                    assert!(
                        difference < 1e-5 * largest,
                        "{tier:?} {form:?} {num_rows}x{columns}x{outputs}: {actual}, expected {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn rows_do_not_depend_on_the_batch() {
    for (bits, group_len, zero, has_mins) in FORMS {
        let form = CodeForm::new(bits, group_len, zero, has_mins).unwrap();
        let (num_rows, columns) = (77, 96);
        let parts = [matrix(form, 37, columns)];
        let x = random(5, num_rows * columns);
        for tier in tiers() {
            let together = multiply(tier, &x, &parts, None).unwrap();
            for chunk in [1, 2, 3, 7, 8, 15, 16, 33, 45] {
                let pieces = x.chunks(chunk * columns);
                let pieces = pieces.flat_map(|rows| multiply(tier, rows, &parts, None).unwrap());
                assert_eq!(
                    pieces.collect::<Vec<_>>(),
                    together,
                    "{tier:?} {form:?} by {chunk}"
                );
            }
        }
    }
}

#[test]
fn parts_lie_side_by_side_and_take_a_bias() {
    let columns = 64;
    let narrow = matrix(CodeForm::new(4, 32, 0, true).unwrap(), 20, columns);
    let wide = matrix(CodeForm::new(6, 16, 32, false).unwrap(), 33, columns);
    let x = random(9, 3 * columns);
    let bias = random(10, 53);
    for tier in tiers() {
        let first = multiply(tier, &x, std::slice::from_ref(&narrow), None).unwrap();
        let second = multiply(tier, &x, std::slice::from_ref(&wide), None).unwrap();
        let mut expected = Vec::new();
        for row in 0..3 {
            let sums = first[row * 20..][..20]
                .iter()
                .chain(&second[row * 33..][..33]);
            expected.extend(sums.zip(&bias).map(|(sum, bias)| sum + bias));
        }
        let parts = [
            matrix(CodeForm::new(4, 32, 0, true).unwrap(), 20, columns),
            matrix(CodeForm::new(6, 16, 32, false).unwrap(), 33, columns),
        ];
        assert_eq!(multiply(tier, &x, &parts, Some(&bias)).unwrap(), expected);
    }
}

#[test]
fn activations_are_rounded_alike_everywhere() {
    let x = random(3, 5 * 75);
    let plain = QuantizedRows::new(Tier::Plain, &x, 75, 16).unwrap();
    for tier in tiers() {
        let rows = QuantizedRows::new(tier, &x, 75, 16).unwrap();
        for row in 0..5 {
            assert_eq!(rows.row(row).codes, plain.row(row).codes);
            assert_eq!(rows.row(row).scales, plain.row(row).scales);
            assert_eq!(rows.row(row).scaled_sums, plain.row(row).scaled_sums);
        }
    }
}

#[test]
fn small_scales_keep_their_digits() {
    let form = CodeForm::new(8, 32, 128, false).unwrap();
    let panels = QuantizedPanels::from_rows::<crate::Error>(form, 1, 32, |_, codes| {
        codes.codes.fill(129);
        codes.scales.fill(3.0e-9);
        Ok(())
    });
    let mut row = [0.0; 32];
    panels.unwrap().copy_row(0, &mut row);
    assert!((row[0] / 3.0e-9 - 1.0).abs() < 1e-3, "{}", row[0]);
}

#[test]
fn what_a_row_cannot_give_is_reported() {
    let form = CodeForm::new(4, 32, 0, true).unwrap();
    let refused = QuantizedPanels::from_rows(form, 40, 32, |row, _| match row {
        33 => Err(crate::Error::Batch("row 33".to_owned())),
        _ => Ok(()),
    });
    assert!(refused.unwrap_err().to_string().contains("row 33"));
}
