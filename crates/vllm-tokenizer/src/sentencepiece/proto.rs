//! The parts of `sentencepiece_model.proto` that matter here.

/// A vocabulary with what it says of its use.
#[derive(Debug)]
pub(super) struct ModelProto {
    /// By id.
    pub(super) pieces: Vec<Piece>,
    pub(super) model_type: ModelType,
    /// Characters outside the vocabulary become `<0xNN>` pieces.
    pub(super) byte_fallback: bool,
    /// A map of characters in SentencePiece's own form; empty for none.
    pub(super) precompiled_charsmap: Vec<u8>,
    /// A text begins with a space.
    pub(super) add_dummy_prefix: bool,
    /// Spaces at both ends go, and several in a row become one.
    pub(super) remove_extra_whitespaces: bool,
}

#[derive(Debug)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) score: f32,
    pub(super) kind: PieceType,
}

impl Piece {
    /// Whether text can become this piece by joining others.
    pub(super) fn can_be_merged(&self) -> bool {
        matches!(self.kind, PieceType::Normal | PieceType::UserDefined)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PieceType {
    Normal,
    Unknown,
    Control,
    UserDefined,
    /// Kept for its id and never used.
    Unused,
    Byte,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ModelType {
    Unigram,
    Bpe,
    Other(u64),
}

impl ModelProto {
    /// Reads a `ModelProto`. The error is a sentence without the file's name.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut proto = Self {
            pieces: Vec::new(),
            model_type: ModelType::Unigram,
            byte_fallback: false,
            precompiled_charsmap: Vec::new(),
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
        };
        for field in Fields(bytes) {
            match field? {
                (1, Wire::Bytes(piece)) => proto.pieces.push(read_piece(piece)?),
                (2, Wire::Bytes(trainer)) => proto.read_trainer(trainer)?,
                (3, Wire::Bytes(normalizer)) => proto.read_normalizer(normalizer)?,
                _ => {}
            }
        }
        if proto.pieces.is_empty() {
            return Err("it holds no pieces: it is no SentencePiece model".to_owned());
        }
        Ok(proto)
    }

    fn read_trainer(&mut self, bytes: &[u8]) -> Result<(), String> {
        for field in Fields(bytes) {
            match field? {
                (3, Wire::Number(1)) => self.model_type = ModelType::Unigram,
                (3, Wire::Number(2)) => self.model_type = ModelType::Bpe,
                (3, Wire::Number(other)) => self.model_type = ModelType::Other(other),
                (35, Wire::Number(flag)) => self.byte_fallback = flag != 0,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_normalizer(&mut self, bytes: &[u8]) -> Result<(), String> {
        for field in Fields(bytes) {
            match field? {
                (2, Wire::Bytes(map)) => self.precompiled_charsmap = map.to_vec(),
                (3, Wire::Number(flag)) => self.add_dummy_prefix = flag != 0,
                (4, Wire::Number(flag)) => self.remove_extra_whitespaces = flag != 0,
                _ => {}
            }
        }
        Ok(())
    }
}

fn read_piece(bytes: &[u8]) -> Result<Piece, String> {
    let mut piece = Piece {
        text: String::new(),
        score: 0.0,
        kind: PieceType::Normal,
    };
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Bytes(text)) => {
                let text = std::str::from_utf8(text).map_err(|_| "a piece is not UTF-8")?;
                text.clone_into(&mut piece.text);
            }
            (2, Wire::Fixed32(bits)) => piece.score = f32::from_bits(bits),
            (3, Wire::Number(kind)) => {
                piece.kind = match kind {
                    1 => PieceType::Normal,
                    2 => PieceType::Unknown,
                    3 => PieceType::Control,
                    4 => PieceType::UserDefined,
                    5 => PieceType::Unused,
                    6 => PieceType::Byte,
                    other => return Err(format!("the type {other} of a piece is not known")),
                };
            }
            _ => {}
        }
    }
    Ok(piece)
}

/// A value on the wire; eight fixed bytes occur in no field that is read.
enum Wire<'a> {
    Number(u64),
    Fixed64,
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// The fields of a message: number and value.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Wire<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            // Whatever follows would be misread.
            self.0 = &[];
        }
        Some(field.ok_or_else(|| "it is damaged or no SentencePiece model".to_owned()))
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Wire<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Wire::Number(self.varint()?),
            1 => {
                self.take(8)?;
                Wire::Fixed64
            }
            2 => {
                let len = usize::try_from(self.varint()?).ok()?;
                Wire::Bytes(self.take(len)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((tag >> 3, value))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.take(1)?.first()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_left_out_has_its_default() {
        // One piece "a" of score -1.
        let bytes = [0x0a, 8, 0x0a, 1, b'a', 0x15, 0, 0, 0x80, 0xbf];
        let proto = ModelProto::parse(&bytes).unwrap();
        assert_eq!((&*proto.pieces[0].text, proto.pieces[0].score), ("a", -1.0));
        assert_eq!(proto.pieces[0].kind, PieceType::Normal);
        assert_eq!(proto.model_type, ModelType::Unigram);
        assert!(proto.add_dummy_prefix && proto.remove_extra_whitespaces);
        assert!(!proto.byte_fallback);
        assert!(
            ModelProto::parse(&bytes[..9])
                .unwrap_err()
                .contains("damaged")
        );
        assert!(ModelProto::parse(&[]).unwrap_err().contains("no pieces"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = ModelProto::parse(&bytes);
        }
    }
}
