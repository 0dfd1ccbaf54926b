//! A reader of Python pickles as data.
//!
//! Nothing is ever executed: calls are recorded, and only calls that tensor files are known to make
//! are let through. Objects live in one arena and refer to one another by index, so that neither
//! deep nesting nor sharing nor cycles cost more than the file itself. Opcodes after CPython's
//! `pickletools`.

use std::collections::HashMap;

/// Index of an object in its [`Pickle`].
pub(super) type ObjectId = usize;

/// The objects that a pickle makes.
#[derive(Debug)]
pub(super) enum Object {
    None,
    Bool,
    Int(i64),
    Float,
    Text(String),
    /// `module.name`.
    Global(String),
    Tuple(Vec<ObjectId>),
    List(Vec<ObjectId>),
    Dict(Vec<(ObjectId, ObjectId)>),
    /// An object kept outside the pickle, by its id.
    Persistent(ObjectId),
    /// A call that was recorded, not made.
    Call {
        function: String,
        arguments: Vec<ObjectId>,
    },
}

/// A pickle that was read to its end.
#[derive(Debug)]
pub(super) struct Pickle {
    objects: Vec<Object>,
    root: ObjectId,
}

/// Calls that stand for an empty dict.
const DICT_CALLS: [&str; 1] = ["collections.OrderedDict"];

/// Calls that tensor files make.
const TENSOR_CALLS: [&str; 2] = [
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
];

/// Bounds what a recorded call copies.
const MAX_ARGUMENTS: usize = 16;

impl Pickle {
    /// Reads a pickle. The error is a sentence.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut machine = Machine {
            input: bytes,
            ..Machine::default()
        };
        loop {
            let offset = bytes.len() - machine.input.len();
            match machine.step() {
                Ok(None) => {}
                Ok(Some(root)) => {
                    return Ok(Self {
                        objects: machine.objects,
                        root,
                    });
                }
                Err(message) => {
                    return Err(format!("malformed pickle at byte {offset}: {message}"));
                }
            }
        }
    }

    pub(super) fn root(&self) -> &Object {
        &self.objects[self.root]
    }

    /// The object behind an id of this pickle.
    pub(super) fn get(&self, id: ObjectId) -> &Object {
        &self.objects[id]
    }
}

#[derive(Default)]
struct Machine<'a> {
    input: &'a [u8],
    objects: Vec<Object>,
    stack: Vec<ObjectId>,
    /// Stack heights at the marks.
    marks: Vec<usize>,
    memo: HashMap<u32, ObjectId>,
}

impl<'a> Machine<'a> {
    /// Runs one opcode; `Some` is the result.
    fn step(&mut self) -> Result<Option<ObjectId>, String> {
        let [opcode] = self.array()?;
        match opcode {
            // PROTO, FRAME: nothing to know.
            0x80 => drop(self.array::<1>()?),
            0x95 => drop(self.array::<8>()?),
            b'.' => return self.pop().map(Some),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'N' => self.push(Object::None),
            0x88 | 0x89 => self.push(Object::Bool),
            b'K' => {
                let [value] = self.array()?;
                self.push(Object::Int(value.into()));
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Object::Int(value.into()));
            }
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Object::Int(value.into()));
            }
            0x8a => self.long()?,
            b'G' => {
                self.array::<8>()?;
                self.push(Object::Float);
            }
            // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8.
            0x8c => {
                let [len] = self.array()?;
                self.text(len.into())?;
            }
            b'X' => {
                let len = u32::from_le_bytes(self.array()?);
                self.text(len.into())?;
            }
            0x8d => {
                let len = u64::from_le_bytes(self.array()?);
                self.text(len)?;
            }
            b')' => self.push(Object::Tuple(Vec::new())),
            0x85 => self.short_tuple(1)?,
            0x86 => self.short_tuple(2)?,
            0x87 => self.short_tuple(3)?,
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Object::Tuple(items));
            }
            b']' => self.push(Object::List(Vec::new())),
            b'l' => {
                let items = self.pop_to_mark()?;
                self.push(Object::List(items));
            }
            b'a' => {
                let item = self.pop()?;
                self.extend_list(vec![item])?;
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.extend_list(items)?;
            }
            b'}' => self.push(Object::Dict(Vec::new())),
            b'd' => {
                let items = self.pop_to_mark()?;
                self.push(Object::Dict(Vec::new()));
                self.extend_dict(&items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.extend_dict(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.extend_dict(&items)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Object::Global(format!("{module}.{name}")));
            }
            // STACK_GLOBAL.
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (&self.objects[module], &self.objects[name]) {
                    (Object::Text(module), Object::Text(name)) => {
                        let global = Object::Global(format!("{module}.{name}"));
                        self.push(global);
                    }
                    _ => return Err("a global's name is not text".to_owned()),
                }
            }
            // REDUCE, NEWOBJ.
            b'R' | 0x81 => self.call()?,
            // BUILD sets attributes, which tensors and dicts of them do not need.
            b'b' => drop(self.pop()?),
            b'Q' => {
                let id = self.pop()?;
                self.push(Object::Persistent(id));
            }
            b'q' => {
                let [key] = self.array()?;
                self.memoize(key.into())?;
            }
            b'r' => {
                let key = u32::from_le_bytes(self.array()?);
                self.memoize(key)?;
            }
            // MEMOIZE.
            0x94 => {
                let key = u32::try_from(self.memo.len()).map_err(|e| e.to_string())?;
                self.memoize(key)?;
            }
            b'h' => {
                let [key] = self.array()?;
                self.recall(key.into())?;
            }
            b'j' => {
                let key = u32::from_le_bytes(self.array()?);
                self.recall(key)?;
            }
            other => {
                return Err(format!(
                    "opcode 0x{other:02x}, which tensor files do not use"
                ));
            }
        }
        Ok(None)
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], String> {
        let len = usize::try_from(len).map_err(|e| e.to_string())?;
        let (head, tail) = self
            .input
            .split_at_checked(len)
            .ok_or("the data ends too early")?;
        self.input = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (head, tail) = self
            .input
            .split_first_chunk()
            .ok_or("the data ends too early")?;
        self.input = tail;
        Ok(*head)
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let len = self
            .input
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or("a line has no end")?;
        let line = self.take(len as u64)?;
        self.take(1)?;
        std::str::from_utf8(line).map_err(|e| e.to_string())
    }

    fn text(&mut self, len: u64) -> Result<(), String> {
        let text = std::str::from_utf8(self.take(len)?).map_err(|e| e.to_string())?;
        self.push(Object::Text(text.to_owned()));
        Ok(())
    }

    /// LONG1: a little-endian integer of a given number of bytes.
    fn long(&mut self) -> Result<(), String> {
        let [len] = self.array()?;
        let bytes = self.take(len.into())?;
        if bytes.len() > 8 {
            return Err("an integer of more than 64 bits".to_owned());
        }
        let negative = bytes.last().is_some_and(|byte| *byte >= 0x80);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        self.push(Object::Int(i64::from_le_bytes(wide)));
        Ok(())
    }

    fn push(&mut self, object: Object) {
        self.stack.push(self.objects.len());
        self.objects.push(object);
    }

    fn pop(&mut self) -> Result<ObjectId, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("the stack is empty".to_owned());
        }
        self.stack
            .pop()
            .ok_or_else(|| "the stack is empty".to_owned())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<ObjectId>, String> {
        let mark = self.marks.pop().ok_or("no mark")?;
        // `pop` never goes below a mark, so it is within the stack.
        Ok(self.stack.split_off(mark))
    }

    fn top(&self) -> Result<ObjectId, String> {
        self.stack
            .last()
            .copied()
            .ok_or_else(|| "the stack is empty".to_owned())
    }

    fn short_tuple(&mut self, len: usize) -> Result<(), String> {
        let mut items = Vec::with_capacity(len);
        for _ in 0..len {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Object::Tuple(items));
        Ok(())
    }

    fn extend_list(&mut self, items: Vec<ObjectId>) -> Result<(), String> {
        let list = self.top()?;
        match &mut self.objects[list] {
            Object::List(list) => list.extend(items),
            _ => return Err("items are added to something that is no list".to_owned()),
        }
        Ok(())
    }

    fn extend_dict(&mut self, items: &[ObjectId]) -> Result<(), String> {
        let dict = self.top()?;
        let (pairs, rest) = items.as_chunks::<2>();
        match &mut self.objects[dict] {
            Object::Dict(dict) if rest.is_empty() => {
                dict.extend(pairs.iter().map(|[key, value]| (*key, *value)));
            }
            Object::Dict(_) => return Err("a key without a value".to_owned()),
            _ => return Err("items are set in something that is no dict".to_owned()),
        }
        Ok(())
    }

    fn call(&mut self) -> Result<(), String> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Object::Global(function) = &self.objects[function] else {
            return Err("a call of something that is no function".to_owned());
        };
        let call = if DICT_CALLS.contains(&function.as_str()) {
            Object::Dict(Vec::new())
        } else if TENSOR_CALLS.contains(&function.as_str()) {
            let Object::Tuple(arguments) = &self.objects[arguments] else {
                return Err("a call's arguments are no tuple".to_owned());
            };
            if arguments.len() > MAX_ARGUMENTS {
                return Err(format!("a call with {} arguments", arguments.len()));
            }
            Object::Call {
                function: function.clone(),
                arguments: arguments.clone(),
            }
        } else {
            return Err(format!("it calls '{function}', which no tensor file needs"));
        };
        self.push(call);
        Ok(())
    }

    fn memoize(&mut self, key: u32) -> Result<(), String> {
        let object = self.top()?;
        self.memo.insert(key, object);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), String> {
        let object = *self
            .memo
            .get(&key)
            .ok_or_else(|| format!("nothing is stored under {key}"))?;
        self.stack.push(object);
        Ok(())
    }
}
