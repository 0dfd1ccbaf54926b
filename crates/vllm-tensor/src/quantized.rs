use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::cpu::{self, CodeForm, QuantizedPanels, RowCodes};
use crate::{Error, Result};

/// A matrix `[rows, columns]` that the CPU keeps and multiplies as whole-number codes with scales.
///
/// ```
/// use vllm_tensor::{CodeForm, Device, Linear, QuantizedMatrix, Tensor};
///
/// # fn main() -> vllm_tensor::Result<()> {
/// // Numbers `scale · (code − 8)`, a scale for each 32 inputs.
/// let form = CodeForm::new(4, 32, 8, false).expect("a form that kernels know");
/// let weight = QuantizedMatrix::from_rows::<vllm_tensor::Error>(form, 2, 32, |row, codes| {
///     codes.codes.fill(if row == 0 { 9 } else { 7 });
///     codes.scales.fill(0.5);
///     Ok(())
/// })?;
/// let linear = Linear::quantized(weight, None)?;
/// let x = Tensor::ones((1, 32), vllm_tensor::DType::F32, &Device::Cpu)?;
/// assert_eq!(linear.forward(&x)?.to_vec2::<f32>()?, [[16.0, -16.0]]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct QuantizedMatrix {
    /// Matrices of the same width, one below the other.
    parts: Vec<Arc<QuantizedPanels>>,
    /// For each part, the input that each column belongs to, where they are not in order.
    input_orders: Vec<Option<Arc<[u32]>>>,
}

impl QuantizedMatrix {
    /// A matrix of what `read` gives for each row. Rows are read from several threads, in any order.
    ///
    /// # Errors
    /// Whatever `read` reports; a matrix without elements; no memory.
    pub fn from_rows<E: From<Error> + Send>(
        form: CodeForm,
        rows: usize,
        columns: usize,
        read: impl Fn(usize, &mut RowCodes) -> Result<(), E> + Sync,
    ) -> Result<Self, E> {
        if rows == 0 || columns == 0 {
            return Err(Error::Shape {
                operation: "quantized matrix",
                expected: "a positive size".to_owned(),
                actual: (rows, columns).into(),
            }
            .into());
        }
        let panels = QuantizedPanels::from_rows(form, rows, columns, read)?;
        Ok(Self {
            parts: vec![Arc::new(panels)],
            input_orders: vec![None],
        })
    }

    /// The same for inputs that come in another order than the columns: column `i` belongs to input
    /// `order[i]`. [`QuantizedMatrix::rows`] gives the rows in the order of the inputs.
    ///
    /// # Errors
    /// `order` is no order of the columns.
    pub fn with_input_order(mut self, order: Vec<u32>) -> Result<Self> {
        let (_, columns) = self.dims();
        let mut seen = vec![false; columns];
        for input in &order {
            match seen.get_mut(*input as usize) {
                Some(seen) if !*seen => *seen = true,
                _ => break,
            }
        }
        if order.len() != columns || seen.contains(&false) {
            return Err(Error::Shape {
                operation: "quantized matrix",
                expected: format!("an order of {columns} columns"),
                actual: order.len().into(),
            });
        }
        self.input_orders.fill(Some(order.into()));
        Ok(self)
    }

    /// Matrices of the same width, one below the other. Their forms may differ.
    ///
    /// # Errors
    /// No matrix, or different widths.
    pub fn stack(matrices: Vec<Self>) -> Result<Self> {
        let (mut parts, mut input_orders) = (Vec::new(), Vec::new());
        for matrix in matrices {
            parts.extend(matrix.parts);
            input_orders.extend(matrix.input_orders);
        }
        let columns = parts.first().map_or(0, |part| part.columns());
        match parts.iter().find(|part| part.columns() != columns) {
            None if columns > 0 => Ok(Self {
                parts,
                input_orders,
            }),
            odd => Err(Error::Shape {
                operation: "quantized matrix",
                expected: format!("matrices of {columns} columns"),
                actual: odd
                    .map_or((0, 0), |part| (part.rows(), part.columns()))
                    .into(),
            }),
        }
    }

    /// Rows and columns.
    pub fn dims(&self) -> (usize, usize) {
        let rows = self.parts.iter().map(|part| part.rows()).sum();
        (rows, self.parts.first().map_or(0, |part| part.columns()))
    }

    /// Bytes in memory.
    pub fn num_bytes(&self) -> usize {
        self.parts.iter().map(|part| part.num_bytes()).sum()
    }

    /// `x · Wᵀ + b` for a contiguous float32 `x`, `[rows, columns]`.
    pub(crate) fn multiply(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let mut products = Vec::new();
        let (mut first_part, mut first_output) = (0, 0);
        // Most layers want the inputs in one order.
        for orders in self.input_orders.chunk_by(|order, next| order == next) {
            let parts = &self.parts[first_part..first_part + orders.len()];
            let outputs = parts.iter().map(|part| part.rows()).sum();
            let bias = bias.map(|bias| bias.narrow(0, first_output, outputs));
            let bias = bias.transpose()?;
            products.push(match &orders[0] {
                Some(order) => cpu::linear_quantized(&in_order(x, order)?, parts, bias.as_ref())?,
                None => cpu::linear_quantized(x, parts, bias.as_ref())?,
            });
            first_part += parts.len();
            first_output += outputs;
        }
        match &products[..] {
            [only] => Ok(only.clone()),
            products => Ok(Tensor::cat(products, 1)?),
        }
    }

    /// The numbers of rows `indices`, one after the other; zeros for rows that are not there.
    pub fn rows(&self, indices: &[u32]) -> Vec<f32> {
        let (_, columns) = self.dims();
        let mut rows = vec![0f32; indices.len() * columns];
        for (index, row) in indices.iter().zip(rows.chunks_exact_mut(columns)) {
            let mut index = *index as usize;
            for (part, order) in self.parts.iter().zip(&self.input_orders) {
                if index < part.rows() {
                    part.copy_row(index, row);
                    if let Some(order) = order {
                        let columns = row.to_vec();
                        for (input, number) in order.iter().zip(columns) {
                            row[*input as usize] = number;
                        }
                    }
                    break;
                }
                index -= part.rows();
            }
        }
        rows
    }
}

/// The columns of `x` as `order` names them.
fn in_order(x: &Tensor, order: &[u32]) -> Result<Tensor> {
    let dims = x.dims2()?;
    let numbers = x.flatten_all()?.to_vec1::<f32>()?;
    let rows = numbers.chunks_exact(order.len());
    let ordered = rows.flat_map(|row| order.iter().map(|input| row[*input as usize]));
    Ok(Tensor::from_vec(
        ordered.collect::<Vec<_>>(),
        dims,
        &Device::Cpu,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::random_tensor;

    fn matrix(seed: usize) -> QuantizedMatrix {
        let form = CodeForm::new(4, 32, 8, false).unwrap();
        let read = |row: usize, codes: &mut RowCodes| {
            for (column, code) in codes.codes.iter_mut().enumerate() {
                *code = ((row * 7 + column * seed) % 16) as u8;
            }
            codes.scales.fill(0.01 * (row + 1) as f32);
            Ok::<_, Error>(())
        };
        QuantizedMatrix::from_rows(form, 20, 96, read).unwrap()
    }

    #[test]
    fn inputs_may_come_in_another_order() {
        let order: Vec<u32> = (0..96).map(|column| column * 35 % 96).collect();
        let ordered = matrix(5).with_input_order(order.clone()).unwrap();
        let (row, ordered_row) = (matrix(5).rows(&[3]), ordered.rows(&[3]));
        for (column, input) in order.iter().enumerate() {
            assert_eq!(ordered_row[*input as usize], row[column]);
        }
        let x = random_tensor(3, &[5, 96]);
        let moved = in_order(&x, &order).unwrap();
        let bias = random_tensor(4, &[60]);
        let parts = [ordered.clone(), ordered, matrix(3)];
        let y = QuantizedMatrix::stack(parts.to_vec()).unwrap();
        let y = y.multiply(&x, Some(&bias)).unwrap();
        for (part, (matrix, x)) in [(matrix(5), &moved), (matrix(5), &moved), (matrix(3), &x)]
            .into_iter()
            .enumerate()
        {
            let bias = bias.narrow(0, 20 * part, 20).unwrap();
            let expected = matrix.multiply(x, Some(&bias)).unwrap();
            let actual = y.narrow(1, 20 * part, 20).unwrap();
            assert_eq!(
                actual.to_vec2::<f32>().unwrap(),
                expected.to_vec2::<f32>().unwrap()
            );
        }
    }

    #[test]
    fn what_is_no_order_is_refused() {
        for order in [vec![0; 96], (0..95).collect(), (1..97).collect()] {
            let message = matrix(5).with_input_order(order).unwrap_err().to_string();
            assert!(message.contains("an order of 96 columns"), "{message}");
        }
    }
}
