//! Reading one call, a JSON object with a name and arguments, as it is being written.

/// Reads `{"name": …, "arguments": …}` byte by byte, in either order of the members; `parameters`
/// is another word for `arguments`. Other members are skipped.
#[derive(Debug, Default)]
pub(super) struct CallScanner {
    state: State,
    /// Containers open inside the member value being read.
    depth: usize,
    in_string: bool,
    escaped: bool,
    member: String,
    value: String,
    name: Option<String>,
    arguments: String,
    arguments_taken: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Start,
    BeforeKey,
    Key,
    Colon,
    BeforeValue,
    Value,
    AfterValue,
    Done,
    Broken,
}

impl CallScanner {
    /// Takes text until the object ends; returns how many bytes were used.
    pub(super) fn push(&mut self, text: &str) -> usize {
        for (position, character) in text.char_indices() {
            if self.is_done() || self.is_broken() {
                return position;
            }
            self.take(character);
        }
        text.len()
    }

    /// Whether the object is complete.
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the text is not an object.
    pub(super) fn is_broken(&self) -> bool {
        self.state == State::Broken
    }

    /// The function's name, once complete.
    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The argument text since the last call of this function.
    pub(super) fn take_arguments(&mut self) -> String {
        let fresh = self.arguments[self.arguments_taken..].to_owned();
        self.arguments_taken = self.arguments.len();
        fresh
    }

    fn take(&mut self, character: char) {
        let blank = character.is_ascii_whitespace();
        match self.state {
            State::Done | State::Broken => {}
            State::Value => self.take_value(character),
            State::Key => self.take_key(character),
            _ if blank => {}
            State::Start => self.expect(character, '{', State::BeforeKey),
            State::BeforeKey => match character {
                '"' => {
                    self.member.clear();
                    self.state = State::Key;
                }
                '}' => self.state = State::Done,
                ',' => {}
                _ => self.state = State::Broken,
            },
            State::Colon => self.expect(character, ':', State::BeforeValue),
            State::BeforeValue => {
                self.value.clear();
                self.state = State::Value;
                self.take_value(character);
            }
            State::AfterValue => match character {
                ',' => self.state = State::BeforeKey,
                '}' => self.state = State::Done,
                _ => self.state = State::Broken,
            },
        }
    }

    fn expect(&mut self, character: char, wanted: char, next: State) {
        self.state = if character == wanted {
            next
        } else {
            State::Broken
        };
    }

    fn take_key(&mut self, character: char) {
        match character {
            '"' if !self.escaped => self.state = State::Colon,
            '\\' if !self.escaped => self.escaped = true,
            other => {
                self.escaped = false;
                self.member.push(other);
            }
        }
    }

    fn take_value(&mut self, character: char) {
        if self.in_string {
            self.keep(character);
            match character {
                _ if self.escaped => self.escaped = false,
                '\\' => self.escaped = true,
                '"' => {
                    self.in_string = false;
                    self.end_value_if_flat();
                }
                _ => {}
            }
            return;
        }
        match character {
            '"' => {
                self.in_string = true;
                self.keep(character);
            }
            '{' | '[' => {
                self.depth += 1;
                self.keep(character);
            }
            '}' | ']' if self.depth > 0 => {
                self.depth -= 1;
                self.keep(character);
                self.end_value_if_flat();
            }
            // A number or a word ends where the object goes on.
            ',' | '}' if self.depth == 0 => {
                self.end_value();
                self.take(character);
            }
            ']' => self.state = State::Broken,
            other => self.keep(other),
        }
    }

    fn end_value_if_flat(&mut self) {
        if self.depth == 0 {
            self.end_value();
        }
    }

    fn end_value(&mut self) {
        if self.member == "name" {
            match serde_json::from_str(&self.value) {
                Ok(name) => self.name = Some(name),
                Err(_) => {
                    self.state = State::Broken;
                    return;
                }
            }
        }
        self.state = State::AfterValue;
    }

    fn keep(&mut self, character: char) {
        match self.member.as_str() {
            "arguments" | "parameters" => self.arguments.push(character),
            "name" => self.value.push(character),
            _ => {}
        }
    }
}

/// Finds the end of a JSON object as it is being written.
#[derive(Debug, Default)]
pub(super) struct ObjectScanner {
    depth: usize,
    in_string: bool,
    escaped: bool,
    done: bool,
}

impl ObjectScanner {
    /// Takes text until the object ends; returns how many bytes were used.
    pub(super) fn push(&mut self, text: &str) -> usize {
        for (position, byte) in text.bytes().enumerate() {
            if self.done {
                return position;
            }
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.done = self.depth == 0;
                }
                _ => {}
            }
        }
        text.len()
    }

    /// Whether the object is complete.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }
}
