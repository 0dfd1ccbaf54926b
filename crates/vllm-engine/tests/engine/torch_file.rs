//! Writes the two containers of a `pytorch_model.bin`: a pickle of tensor headers in an
//! uncompressed zip archive, as `torch.save` lays them out.

/// A float16 tensor: name, shape, little-endian elements.
pub(crate) struct HalfTensor<'a> {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: &'a [u8],
}

/// The bytes of a checkpoint that holds these tensors.
pub(crate) fn torch_file(tensors: &[HalfTensor<'_>]) -> Vec<u8> {
    let mut zip = Zip::default();
    zip.add("archive/data.pkl", &pickle(tensors));
    zip.add("archive/byteorder", b"little");
    for (key, tensor) in tensors.iter().enumerate() {
        zip.add(&format!("archive/data/{key}"), tensor.bytes);
    }
    zip.add("archive/version", b"3\n");
    zip.finish()
}

/// `{name: torch._utils._rebuild_tensor_v2(storage, 0, shape, stride, False, OrderedDict())}`.
fn pickle(tensors: &[HalfTensor<'_>]) -> Vec<u8> {
    let mut out = b"\x80\x02}(".to_vec(); // protocol 2, empty dict, mark
    for (key, tensor) in tensors.iter().enumerate() {
        let count: usize = tensor.shape.iter().product();
        text(&mut out, &tensor.name);
        out.extend_from_slice(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend_from_slice(b"ctorch\nHalfStorage\n");
        text(&mut out, &key.to_string());
        text(&mut out, "cpu");
        integer(&mut out, count);
        out.extend_from_slice(b"tQ"); // tuple, persistent id
        integer(&mut out, 0);
        tuple(&mut out, &tensor.shape);
        let strides: Vec<usize> = (0..tensor.shape.len())
            .map(|i| tensor.shape[i + 1..].iter().product())
            .collect();
        tuple(&mut out, &strides);
        out.extend_from_slice(b"\x89ccollections\nOrderedDict\n)RtR"); // False, hooks, call
    }
    out.extend_from_slice(b"u."); // set items, stop
    out
}

fn text(out: &mut Vec<u8>, value: &str) {
    out.push(b'X');
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(value.as_bytes());
}

fn integer(out: &mut Vec<u8>, value: usize) {
    out.push(b'J');
    out.extend_from_slice(&(value as i32).to_le_bytes());
}

fn tuple(out: &mut Vec<u8>, values: &[usize]) {
    out.push(b'(');
    values.iter().for_each(|value| integer(out, *value));
    out.push(b't');
}

#[derive(Default)]
struct Zip {
    bytes: Vec<u8>,
    directory: Vec<u8>,
    num_entries: u16,
}

impl Zip {
    fn add(&mut self, name: &str, data: &[u8]) {
        let offset = self.bytes.len() as u32;
        let mut header = Vec::new();
        header.extend_from_slice(&[20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0]); // version, flags, stored, time
        header.extend_from_slice(&crc32(data).to_le_bytes());
        header.extend_from_slice(&(data.len() as u32).to_le_bytes());
        header.extend_from_slice(&(data.len() as u32).to_le_bytes());
        header.extend_from_slice(&(name.len() as u16).to_le_bytes());
        header.extend_from_slice(&[0, 0]); // no extra field
        self.bytes.extend_from_slice(b"PK\x03\x04");
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(data);
        self.directory.extend_from_slice(b"PK\x01\x02\x14\x00");
        self.directory.extend_from_slice(&header);
        self.directory.extend_from_slice(&[0; 10]); // comment, disk, attributes
        self.directory.extend_from_slice(&offset.to_le_bytes());
        self.directory.extend_from_slice(name.as_bytes());
        self.num_entries += 1;
    }

    fn finish(mut self) -> Vec<u8> {
        let offset = self.bytes.len() as u32;
        self.bytes.extend_from_slice(&self.directory);
        self.bytes.extend_from_slice(b"PK\x05\x06\0\0\0\0");
        self.bytes
            .extend_from_slice(&self.num_entries.to_le_bytes());
        self.bytes
            .extend_from_slice(&self.num_entries.to_le_bytes());
        self.bytes
            .extend_from_slice(&(self.directory.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&offset.to_le_bytes());
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes
    }
}

fn crc32(data: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0xEDB8_8320
            } else {
                crc >> 1
            };
        }
    }
    !crc
}
