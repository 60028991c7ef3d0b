//! The machine that runs a pickle's program: a stack, a memo, and a heap.
//!
//! Pickle is a language whose programs call whatever they name. Ours calls
//! nothing: names are looked up in [`crate::globals`], and a call is noted or
//! turned into the value it is known to make.

use crate::cursor::Cursor;
use crate::error::{Error, Fault};
use crate::globals::{self, Global};
use crate::heap::{Call, Heap, Span, Value};
use crate::opcodes::{Meaning, Opcode, meaning};

/// Longest pickle in bytes. A tensor takes about 200.
pub const MAX_PICKLE: u64 = 32 << 20;

/// Most opcodes of a pickle. A tensor takes about 30.
pub const MAX_OPCODES: usize = 4 << 20;

/// Most values and marks on the stack.
pub const MAX_DEPTH: usize = 1 << 20;

/// Most values in the memo. A tensor puts about 10 there.
pub const MAX_MEMO: usize = 2 << 20;

/// Most lists, dictionaries, storages and tensors. A tensor takes 3 of them.
pub const MAX_OBJECTS: usize = 1 << 19;

/// Longest name of a module, class or function.
const MAX_NAME: usize = 256;

/// What came of a pickle.
#[derive(Debug)]
pub(crate) struct Unpickled {
    pub(crate) root: Value,
    pub(crate) heap: Heap,
}

/// Runs one pickle, up to and with its STOP.
pub(crate) fn run(cursor: &mut Cursor<'_>) -> Result<Unpickled, Error> {
    let machine = Machine {
        at: cursor.position(),
        cursor,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
        heap: Heap::default(),
    };
    machine.run()
}

struct Machine<'c, 'f> {
    cursor: &'c mut Cursor<'f>,
    stack: Vec<Value>,
    /// How high the stack was at each open mark.
    marks: Vec<usize>,
    memo: Vec<Value>,
    heap: Heap,
    /// The offset of the opcode that runs.
    at: u64,
}

impl Machine<'_, '_> {
    fn run(mut self) -> Result<Unpickled, Error> {
        self.protocol()?;
        for _ in 0..MAX_OPCODES {
            self.at = self.cursor.position();
            let opcode = match meaning(self.cursor.byte()?) {
                Meaning::Known(Opcode::Stop) => {
                    let root = self.pop()?;
                    if !self.stack.is_empty() || !self.marks.is_empty() {
                        return Err(self.fail(Fault::LeftOnStack));
                    }
                    return Ok(Unpickled { root, heap: self.heap });
                }
                Meaning::Known(opcode) => opcode,
                Meaning::Forbidden(name) => return Err(self.fail(Fault::ForbiddenOpcode(name))),
                Meaning::Unknown => return Err(self.fail(Fault::UnknownOpcode)),
            };
            self.step(opcode)?;
            self.check_limits()?;
        }
        Err(self.limit("opcodes", MAX_OPCODES))
    }

    /// Every pickle from protocol 2 on begins with its number.
    fn protocol(&mut self) -> Result<(), Error> {
        match self.cursor.array()? {
            [0x80, 2..=5] => Ok(()),
            [0x80, other] => Err(self.fail(Fault::Protocol(other))),
            _ => Err(self.fail(Fault::NotAPickle)),
        }
    }

    fn check_limits(&self) -> Result<(), Error> {
        if self.stack.len().saturating_add(self.marks.len()) > MAX_DEPTH {
            return Err(self.limit("values on the stack", MAX_DEPTH));
        }
        if self.memo.len() > MAX_MEMO {
            return Err(self.limit("values in the memo", MAX_MEMO));
        }
        if self.heap.objects() > MAX_OBJECTS {
            return Err(self.limit("objects", MAX_OBJECTS));
        }
        Ok(())
    }

    fn fail(&self, fault: Fault) -> Error {
        self.cursor.fail(self.at, fault)
    }

    fn limit(&self, what: &'static str, limit: usize) -> Error {
        self.fail(Fault::PickleLimit { what, limit })
    }

    fn wrong(&self, expected: &'static str, found: Value) -> Error {
        self.fail(Fault::WrongValue { expected, found: found.kind() })
    }

    fn step(&mut self, opcode: Opcode) -> Result<(), Error> {
        let value = match opcode {
            Opcode::None => Value::None,
            Opcode::NewTrue => Value::Bool(true),
            Opcode::NewFalse => Value::Bool(false),
            Opcode::BinInt => Value::Int(i32::from_le_bytes(self.cursor.array()?).into()),
            Opcode::BinInt1 => Value::Int(self.cursor.byte()?.into()),
            Opcode::BinInt2 => Value::Int(u16::from_le_bytes(self.cursor.array()?).into()),
            Opcode::Long1 => self.long()?,
            Opcode::BinFloat => {
                self.cursor.skip(8)?;
                Value::Float
            }
            Opcode::ShortBinBytes | Opcode::BinBytes | Opcode::BinBytes8 => {
                let length = self.length(opcode)?;
                self.cursor.skip(length)?;
                Value::Bytes
            }
            Opcode::ShortBinUnicode | Opcode::BinUnicode | Opcode::BinUnicode8 => {
                self.text(opcode)?
            }
            Opcode::EmptyTuple => self.heap.add_tuple([]),
            Opcode::Tuple | Opcode::Tuple1 | Opcode::Tuple2 | Opcode::Tuple3 => {
                self.tuple(opcode)?
            }
            Opcode::EmptyList => self.heap.add_list(),
            Opcode::EmptyDict => self.heap.add_dict(false),
            Opcode::Global => self.global_of_lines()?,
            Opcode::StackGlobal => self.global_of_stack()?,
            Opcode::Reduce => self.reduce()?,
            Opcode::BinPersId => self.storage()?,
            Opcode::BinGet | Opcode::LongBinGet => self.recall(opcode)?,
            _ => return self.change(opcode),
        };
        self.stack.push(value);
        Ok(())
    }

    /// The opcodes that leave no value.
    fn change(&mut self, opcode: Opcode) -> Result<(), Error> {
        match opcode {
            Opcode::Mark => self.marks.push(self.stack.len()),
            Opcode::Append => self.append(|machine| machine.pop().map(|value| vec![value]))?,
            Opcode::Appends => self.append(Self::pop_to_mark)?,
            Opcode::SetItem => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(&[key, value])?;
            }
            Opcode::SetItems => {
                let items = self.pop_to_mark()?;
                self.set_items(&items)?;
            }
            Opcode::Build => self.build()?,
            Opcode::BinPut => {
                let place = self.cursor.byte()?.into();
                self.memoize(place)?;
            }
            Opcode::LongBinPut => {
                let place = u32::from_le_bytes(self.cursor.array()?);
                self.memoize(place as usize)?;
            }
            Opcode::Memoize => self.memoize(self.memo.len())?,
            // Says how much to read ahead, which needs no answer.
            Opcode::Frame => {
                let length = u64::from_le_bytes(self.cursor.array()?);
                self.cursor.expect(length)?;
            }
            // `Proto` is only right at the start; the others leave a value.
            _ => return Err(self.fail(Fault::UnknownOpcode)),
        }
        Ok(())
    }

    /// The top of the stack; a mark is not passed.
    fn pop(&mut self) -> Result<Value, Error> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len() > floor {
            true => self.stack.pop().ok_or_else(|| self.fail(Fault::StackUnderflow)),
            false => Err(self.fail(Fault::StackUnderflow)),
        }
    }

    fn top(&self) -> Result<Value, Error> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let above = self.stack.get(floor..).unwrap_or_default();
        above.last().copied().ok_or_else(|| self.fail(Fault::StackUnderflow))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>, Error> {
        let mark = self.marks.pop().ok_or_else(|| self.fail(Fault::NoMark))?;
        Ok(self.stack.split_off(mark))
    }

    fn long(&mut self) -> Result<Value, Error> {
        let length = self.cursor.byte()?;
        if length > 8 {
            return Err(self.fail(Fault::NumberTooLong(length)));
        }
        let bytes = self.cursor.bytes(length.into())?;
        let sign = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
        let mut number = [sign; 8];
        number.iter_mut().zip(&bytes).for_each(|(to, from)| *to = *from);
        Ok(Value::Int(i64::from_le_bytes(number)))
    }

    fn length(&mut self, opcode: Opcode) -> Result<u64, Error> {
        Ok(match opcode {
            Opcode::ShortBinBytes | Opcode::ShortBinUnicode => self.cursor.byte()?.into(),
            Opcode::BinBytes | Opcode::BinUnicode => {
                u32::from_le_bytes(self.cursor.array()?).into()
            }
            _ => u64::from_le_bytes(self.cursor.array()?),
        })
    }

    fn text(&mut self, opcode: Opcode) -> Result<Value, Error> {
        let length = self.length(opcode)?;
        let bytes = self.cursor.bytes(length)?;
        let text = str::from_utf8(&bytes).map_err(|_| self.fail(Fault::Utf8))?;
        Ok(self.heap.add_text(text))
    }

    fn tuple(&mut self, opcode: Opcode) -> Result<Value, Error> {
        let count = match opcode {
            Opcode::Tuple1 => 1,
            Opcode::Tuple2 => 2,
            Opcode::Tuple3 => 3,
            _ => {
                let items = self.pop_to_mark()?;
                return Ok(self.heap.add_tuple(items));
            }
        };
        let mut items = vec![Value::None; count];
        for item in items.iter_mut().rev() {
            *item = self.pop()?;
        }
        Ok(self.heap.add_tuple(items))
    }

    fn append(
        &mut self,
        items: impl FnOnce(&mut Self) -> Result<Vec<Value>, Error>,
    ) -> Result<(), Error> {
        let items = items(self)?;
        match self.top()? {
            Value::List(list) => self.heap.list_mut(list).extend(items),
            other => return Err(self.wrong("a list to append to", other)),
        }
        Ok(())
    }

    /// Keys and values, in turn.
    fn set_items(&mut self, items: &[Value]) -> Result<(), Error> {
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.fail(Fault::StackUnderflow));
        }
        match self.top()? {
            Value::Dict(dict) => {
                let entries = &mut self.heap.dict_mut(dict).entries;
                entries.extend(pairs.iter().map(|[key, value]| (*key, *value)));
            }
            other => return Err(self.wrong("a dictionary to fill", other)),
        }
        Ok(())
    }

    fn global_of_lines(&mut self) -> Result<Value, Error> {
        let mut line = || self.cursor.line(MAX_NAME);
        let (module, name) = (line()?, line()?);
        match (str::from_utf8(&module), str::from_utf8(&name)) {
            (Ok(module), Ok(name)) => self.global(module, name),
            _ => Err(self.fail(Fault::Utf8)),
        }
    }

    fn global_of_stack(&mut self) -> Result<Value, Error> {
        let (name, module) = (self.pop()?, self.pop()?);
        match (module, name) {
            (Value::Text(module), Value::Text(name)) => {
                self.global(self.heap.text(module), self.heap.text(name))
            }
            (Value::Text(_), other) | (other, _) => Err(self.wrong("a name", other)),
        }
    }

    fn global(&self, module: &str, name: &str) -> Result<Value, Error> {
        globals::find(module, name).map(Value::Global).map_err(|fault| self.fail(fault))
    }

    /// What a call makes, without making it.
    fn reduce(&mut self) -> Result<Value, Error> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Value::Tuple(arguments) = arguments else {
            return Err(self.wrong("a tuple of arguments", arguments));
        };
        let Value::Global(function) = function else {
            return Err(self.wrong("a function to call", function));
        };
        let call = Call { function, arguments, at: self.at };
        match function {
            Global::OrderedDict if self.heap.items(arguments).is_empty() => {
                Ok(self.heap.add_dict(true))
            }
            Global::RebuildTensor | Global::RebuildTensorV2 | Global::RebuildTensorV3 => {
                Ok(self.heap.add_tensor(call))
            }
            Global::RebuildParameter | Global::Size => self.first_of(arguments, function),
            Global::OrderedDict | Global::Storage(_) | Global::DataType(_) => {
                Err(self.fail(Fault::ForbiddenCall))
            }
        }
    }

    /// The first argument, where a call hands that on.
    fn first_of(&self, arguments: Span, function: Global) -> Result<Value, Error> {
        let first = self.heap.items(arguments).first().copied().unwrap_or(Value::None);
        match (function, first) {
            (Global::RebuildParameter, Value::Tensor(_)) | (Global::Size, Value::Tuple(_)) => {
                Ok(first)
            }
            (Global::Size, other) => Err(self.wrong("a tuple of sizes", other)),
            (_, other) => Err(self.wrong("a tensor for a parameter", other)),
        }
    }

    /// Attributes of an `OrderedDict` (`_metadata`: versions of modules) are dropped.
    fn build(&mut self) -> Result<(), Error> {
        self.pop()?;
        match self.top()? {
            Value::Dict(dict) if self.heap.dict(dict).is_ordered => Ok(()),
            other => Err(self.fail(Fault::ForbiddenBuild(other.kind()))),
        }
    }

    fn storage(&mut self) -> Result<Value, Error> {
        let reference = self.pop()?;
        let Value::Tuple(arguments) = reference else {
            return Err(self.wrong("a tuple that names a storage", reference));
        };
        let function = match self.heap.items(arguments) {
            [Value::Text(kind), Value::Global(storage @ Global::Storage(_)), ..]
                if self.heap.text(*kind) == "storage" =>
            {
                *storage
            }
            _ => return Err(self.fail(Fault::NotAStorage)),
        };
        let call = Call { function, arguments, at: self.at };
        Ok(self.heap.add_storage(call))
    }

    fn recall(&mut self, opcode: Opcode) -> Result<Value, Error> {
        let place = match opcode {
            Opcode::BinGet => self.cursor.byte()?.into(),
            _ => u32::from_le_bytes(self.cursor.array()?),
        };
        let found = self.memo.get(place as usize).copied();
        found.ok_or_else(|| self.fail(Fault::MemoUnset(place)))
    }

    /// Places are counted up: picklers number them as they come.
    fn memoize(&mut self, place: usize) -> Result<(), Error> {
        let value = self.top()?;
        let next = self.memo.len();
        match self.memo.get_mut(place) {
            Some(old) => *old = value,
            None if place == next => self.memo.push(value),
            None => return Err(self.fail(Fault::MemoGap(place))),
        }
        Ok(())
    }
}
