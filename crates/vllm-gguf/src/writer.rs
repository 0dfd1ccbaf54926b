//! The header of a file to be written.

use crate::{BlockType, Value};

/// A tensor of a file to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorPlan {
    /// Name, as GGUF has it.
    pub name: String,
    /// Shape, the last dimension fastest; rows are whole blocks.
    pub shape: Vec<usize>,
    /// How the elements are packed.
    pub block_type: BlockType,
}

impl TensorPlan {
    /// Bytes of its data.
    pub fn num_bytes(&self) -> usize {
        self.block_type.byte_len(self.shape.iter().product())
    }
}

/// Every tensor's data begins at a multiple of this, counted from the first one's, and what is between
/// them is zeros.
pub const ALIGNMENT: usize = 32;

/// The first bytes of a file of version 3: everything up to the data of the first tensor.
///
/// Whole numbers are written in 32 bits where they fit and floating-point numbers as float32, as readers
/// of GGUF expect them.
pub fn header(metadata: &[(String, Value)], tensors: &[TensorPlan]) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    put_u32(&mut bytes, 3);
    put_u64(&mut bytes, tensors.len() as u64);
    put_u64(&mut bytes, metadata.len() as u64);
    for (key, value) in metadata {
        put_text(&mut bytes, key);
        put_u32(&mut bytes, kind(value));
        put_value(&mut bytes, value);
    }
    let mut offset = 0;
    for tensor in tensors {
        put_text(&mut bytes, &tensor.name);
        put_u32(&mut bytes, tensor.shape.len() as u32);
        for size in tensor.shape.iter().rev() {
            put_u64(&mut bytes, *size as u64);
        }
        put_u32(&mut bytes, tensor.block_type.number());
        put_u64(&mut bytes, offset);
        offset += tensor.num_bytes().next_multiple_of(ALIGNMENT) as u64;
    }
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    bytes
}

/// The number of a value's type in files.
fn kind(value: &Value) -> u32 {
    match value {
        Value::Unsigned(number) if u32::try_from(*number).is_ok() => 4,
        Value::Unsigned(_) => 10,
        Value::Signed(number) if i32::try_from(*number).is_ok() => 5,
        Value::Signed(_) => 11,
        Value::Float(_) => 6,
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) => 9,
    }
}

fn put_value(bytes: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Unsigned(number) => match u32::try_from(*number) {
            Ok(number) => put_u32(bytes, number),
            Err(_) => put_u64(bytes, *number),
        },
        Value::Signed(number) => match i32::try_from(*number) {
            Ok(number) => bytes.extend(number.to_le_bytes()),
            Err(_) => bytes.extend(number.to_le_bytes()),
        },
        Value::Float(number) => bytes.extend((*number as f32).to_le_bytes()),
        Value::Bool(flag) => bytes.push(u8::from(*flag)),
        Value::String(text) => put_text(bytes, text),
        Value::Array(values) => {
            // All of a list are of one kind, the first one's.
            put_u32(bytes, values.first().map_or(8, kind));
            put_u64(bytes, values.len() as u64);
            values.iter().for_each(|value| put_value(bytes, value));
        }
    }
}

fn put_u32(bytes: &mut Vec<u8>, number: u32) {
    bytes.extend(number.to_le_bytes());
}

fn put_u64(bytes: &mut Vec<u8>, number: u64) {
    bytes.extend(number.to_le_bytes());
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_u64(bytes, text.len() as u64);
    bytes.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Header;

    #[test]
    fn what_is_written_is_read() {
        let metadata = vec![
            ("a".to_owned(), Value::Unsigned(7)),
            ("b".to_owned(), Value::Unsigned(1 << 40)),
            ("c".to_owned(), Value::Signed(-3)),
            ("d".to_owned(), Value::Float(0.5)),
            ("e".to_owned(), Value::Bool(true)),
            ("f".to_owned(), Value::String("é".to_owned())),
            (
                "g".to_owned(),
                Value::Array(vec![Value::Signed(1), Value::Signed(2)]),
            ),
        ];
        let tensor = |name: &str, shape: &[usize], block_type| TensorPlan {
            name: name.to_owned(),
            shape: shape.to_vec(),
            block_type,
        };
        let tensors = [
            tensor("first", &[3], BlockType::F32),
            tensor("second", &[2, 64], BlockType::Q8_0),
        ];
        let mut file = header(&metadata, &tensors);
        let data = file.len();
        file.resize(data + 32 + tensors[1].num_bytes(), 0);
        let read = Header::parse(&file).unwrap();
        for (key, value) in &metadata {
            assert_eq!(read.metadata.get(key), Some(value), "{key}");
        }
        assert_eq!(read.tensors[0].bytes, data..data + 12);
        assert_eq!(read.tensors[1].bytes, data + 32..data + 32 + 136);
        assert_eq!(read.tensors[1].shape, [2, 64]);
    }
}
