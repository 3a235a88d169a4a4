//! A pickle machine that builds plain data and calls nothing.
//!
//! It knows the opcodes that `torch.save` writes (protocols 1 to 5) and refuses the others. A global
//! stays a name, a call stays a node with its callee and arguments; the reader of the result decides
//! which of them mean something ([`super::torch`]). Every opcode counts against [`MAX_STEPS`], and so
//! does every copied pair: memory is bounded whatever the file says.

use std::collections::HashMap;
use std::rc::Rc;

use super::pickle::{Node, Pickle, Value};

/// A ResNet-101 checkpoint with its optimizer takes about 2^15.
const MAX_STEPS: usize = 1 << 21;

/// A longer string is no key; keeping it out keeps copies of keys cheap.
const MAX_STRING: usize = 1 << 10;

/// Reads the pickle at the start of `bytes`; also returns the bytes that it takes.
///
/// # Errors
/// One line on what is wrong with it.
pub fn load(bytes: &[u8]) -> Result<(Pickle, usize), String> {
    let mut machine = Machine {
        bytes,
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        nodes: Vec::new(),
        steps: 0,
    };
    let root = machine.run()?;
    Ok((Pickle { nodes: machine.nodes, root }, machine.at))
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    /// Stack heights at the open marks.
    marks: Vec<usize>,
    memo: HashMap<usize, Value>,
    nodes: Vec<Node>,
    steps: usize,
}

type Step<T> = Result<T, String>;

impl<'a> Machine<'a> {
    fn run(&mut self) -> Step<Value> {
        loop {
            self.spend(1)?;
            let at = self.at;
            let [op] = self.array()?;
            if op == b'.' {
                return self.pop();
            }
            self.step(op, at)?;
        }
    }

    fn spend(&mut self, steps: usize) -> Step<()> {
        self.steps = self.steps.saturating_add(steps);
        match self.steps <= MAX_STEPS {
            true => Ok(()),
            false => Err(format!("a pickle of more than {MAX_STEPS} steps")),
        }
    }

    fn step(&mut self, op: u8, at: usize) -> Step<()> {
        match op {
            // PROTO, FRAME
            0x80 => match self.array()? {
                [0..=5] => {}
                [version] => return Err(format!("pickle protocol {version}")),
            },
            0x95 => drop(self.array::<8>()?),
            // MARK, POP, POP_MARK, DUP
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),
            b'2' => {
                let top = self.top()?.clone();
                self.stack.push(top);
            }
            // NONE, NEWTRUE, NEWFALSE, INT (bools of protocol 1), BININT, BININT1, BININT2, LONG,
            // LONG1, LONG4, BINFLOAT
            b'N' => self.stack.push(Value::None),
            0x88 => self.stack.push(Value::Bool(true)),
            0x89 => self.stack.push(Value::Bool(false)),
            b'I' => {
                let value = match self.line()? {
                    b"00" => Value::Bool(false),
                    b"01" => Value::Bool(true),
                    digits => decimal(digits)?,
                };
                self.stack.push(value);
            }
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.stack.push(Value::Int(value.into()));
            }
            b'K' => {
                let [value] = self.array()?;
                self.stack.push(Value::Int(value.into()));
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.stack.push(Value::Int(value.into()));
            }
            b'L' => {
                let line = self.line()?;
                let value = decimal(line.strip_suffix(b"L").unwrap_or(line))?;
                self.stack.push(value);
            }
            0x8a | 0x8b => {
                let len = if op == 0x8a { self.len1()? } else { self.len4()? };
                let value = long(self.take(len)?);
                self.stack.push(value);
            }
            b'G' => {
                self.take(8)?;
                self.stack.push(Value::Other("a float"));
            }
            // BINUNICODE, SHORT_BINUNICODE, BINUNICODE8; BINSTRING, SHORT_BINSTRING (Python 2's str)
            b'X' | 0x8c | 0x8d | b'T' | b'U' => {
                let len = match op {
                    0x8c | b'U' => self.len1()?,
                    0x8d => self.len8()?,
                    _ => self.len4()?,
                };
                let bytes = self.take(len)?;
                self.stack.push(match bytes.len() <= MAX_STRING {
                    true => Value::Str(String::from_utf8_lossy(bytes).into()),
                    false => Value::Other("a long string"),
                });
            }
            // BINBYTES, SHORT_BINBYTES, BINBYTES8, BYTEARRAY8
            b'B' | b'C' | 0x8e | 0x96 => {
                let len = match op {
                    b'C' => self.len1()?,
                    b'B' => self.len4()?,
                    _ => self.len8()?,
                };
                self.take(len)?;
                self.stack.push(Value::Other("bytes"));
            }
            // EMPTY_LIST, EMPTY_SET, APPEND, APPENDS, ADDITEMS, LIST, FROZENSET
            b']' | 0x8f => self.push(Node::List(Vec::new())),
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.pop_mark()?;
                self.extend(items)?;
            }
            b'l' | 0x91 => {
                let items = self.pop_mark()?;
                self.push(Node::List(items));
            }
            // EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, TUPLE
            b')' => self.push(Node::Tuple(Vec::new())),
            0x85..=0x87 => {
                let mut items = vec![Value::None; usize::from(op - 0x84)];
                for item in items.iter_mut().rev() {
                    *item = self.pop()?;
                }
                self.push(Node::Tuple(items));
            }
            b't' => {
                let items = self.pop_mark()?;
                self.push(Node::Tuple(items));
            }
            // EMPTY_DICT, DICT, SETITEM, SETITEMS
            b'}' => self.push(Node::Dict(Vec::new())),
            b'd' => {
                let pairs = pairs(self.pop_mark()?)?;
                self.push(Node::Dict(pairs));
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(vec![(key, value)])?;
            }
            b'u' => {
                let pairs = pairs(self.pop_mark()?)?;
                self.set(pairs)?;
            }
            // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET
            b'q' | b'r' | 0x94 => {
                let index = match op {
                    b'q' => self.len1()?,
                    b'r' => self.len4()?,
                    _ => self.memo.len(),
                };
                let top = self.top()?.clone();
                self.memo.insert(index, top);
            }
            b'h' | b'j' => {
                let index = if op == b'h' { self.len1()? } else { self.len4()? };
                let value = self.memo.get(&index).ok_or("a reference to no object")?.clone();
                self.stack.push(value);
            }
            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                if module.len().max(name.len()) > MAX_STRING {
                    return Err("a global with a long name".into());
                }
                let text = |bytes| Rc::from(String::from_utf8_lossy(bytes));
                self.push(Node::Global { module: text(module), name: text(name) });
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Str(name), Value::Str(module)) => self.push(Node::Global { module, name }),
                _ => return Err("a global without a name".into()),
            },
            // REDUCE, NEWOBJ, NEWOBJ_EX (its keyword arguments are dropped), BUILD (the state is)
            b'R' | 0x81 => {
                let (args, callee) = (self.pop()?, self.pop()?);
                self.call(callee, args)?;
            }
            0x92 => {
                let (_, args, callee) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(callee, args)?;
            }
            b'b' => drop(self.pop()?),
            // BINPERSID
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id));
            }
            _ => return Err(format!("the opcode 0x{op:02x} at byte {at} of the pickle")),
        }
        Ok(())
    }

    fn take(&mut self, len: usize) -> Step<&'a [u8]> {
        let part = self.bytes[self.at..].get(..len).ok_or("a pickle that is cut short")?;
        self.at += len;
        Ok(part)
    }

    fn array<const N: usize>(&mut self) -> Step<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("as many bytes as taken"))
    }

    fn len1(&mut self) -> Step<usize> {
        Ok(usize::from(self.array::<1>()?[0]))
    }

    fn len4(&mut self) -> Step<usize> {
        usize::try_from(u32::from_le_bytes(self.array()?)).map_err(|e| e.to_string())
    }

    fn len8(&mut self) -> Step<usize> {
        usize::try_from(u64::from_le_bytes(self.array()?)).map_err(|e| e.to_string())
    }

    fn line(&mut self) -> Step<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
        let line = self.take(len)?;
        self.take(1)?;
        Ok(line)
    }

    /// Height below which only a mark's owner may pop.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Step<&Value> {
        match self.stack.last() {
            Some(value) if self.stack.len() > self.floor() => Ok(value),
            _ => Err("a pickle that takes from an empty stack".into()),
        }
    }

    fn pop(&mut self) -> Step<Value> {
        self.top()?;
        Ok(self.stack.pop().expect("a stack with a top"))
    }

    fn pop_mark(&mut self) -> Step<Vec<Value>> {
        let mark = self.marks.pop().ok_or("a pickle that closes no mark")?;
        Ok(self.stack.split_off(mark))
    }

    fn push(&mut self, node: Node) {
        self.stack.push(Value::Node(self.nodes.len()));
        self.nodes.push(node);
    }

    fn top_node(&mut self) -> Step<&mut Node> {
        match *self.top()? {
            Value::Node(i) => Ok(&mut self.nodes[i]),
            _ => Err("a pickle that fills what is no container".into()),
        }
    }

    fn extend(&mut self, items: Vec<Value>) -> Step<()> {
        match self.top_node()? {
            Node::List(list) => list.extend(items),
            // The items of an opaque object are as opaque.
            Node::Call { .. } => {}
            _ => return Err("a pickle that appends to what is no list".into()),
        }
        Ok(())
    }

    fn set(&mut self, pairs: Vec<(Value, Value)>) -> Step<()> {
        match self.top_node()? {
            Node::Dict(dict) => dict.extend(pairs),
            Node::Call { .. } => {}
            _ => return Err("a pickle that sets items of what is no dict".into()),
        }
        Ok(())
    }

    /// An OrderedDict is a dict; its only argument, if any, lists pairs (Python 2). All else stays
    /// a node.
    fn call(&mut self, callee: Value, args: Value) -> Step<()> {
        let ordered = match &callee {
            Value::Node(i) => matches!(&self.nodes[*i], Node::Global { module, name }
                if **module == *"collections" && **name == *"OrderedDict"),
            _ => false,
        };
        match ordered.then(|| self.ordered_dict(&args)).flatten() {
            Some(dict) => {
                self.spend(dict.len())?;
                self.push(Node::Dict(dict));
            }
            None => self.push(Node::Call { callee, args }),
        }
        Ok(())
    }

    fn items(&self, value: &Value) -> Option<&[Value]> {
        match value {
            Value::Node(i) => match &self.nodes[*i] {
                Node::Tuple(items) | Node::List(items) => Some(items),
                _ => None,
            },
            _ => None,
        }
    }

    fn ordered_dict(&self, args: &Value) -> Option<Vec<(Value, Value)>> {
        match self.items(args)? {
            [] => Some(Vec::new()),
            [list] => self
                .items(list)?
                .iter()
                .map(|pair| match self.items(pair)? {
                    [key, value] => Some((key.clone(), value.clone())),
                    _ => None,
                })
                .collect(),
            _ => None,
        }
    }
}

fn pairs(items: Vec<Value>) -> Step<Vec<(Value, Value)>> {
    if !items.len().is_multiple_of(2) {
        return Err("a pickle with a key without a value".into());
    }
    let mut items = items.into_iter();
    Ok(std::iter::from_fn(|| Some((items.next()?, items.next()?))).collect())
}

/// Little-endian two's complement of any length.
fn long(bytes: &[u8]) -> Value {
    if bytes.len() > 8 {
        return Value::Other("a large integer");
    }
    let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
    let mut padded = [if negative { 0xff } else { 0 }; 8];
    padded[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(padded))
}

fn decimal(digits: &[u8]) -> Step<Value> {
    let text = std::str::from_utf8(digits).map_err(|_| "an integer that is not text")?;
    match text.parse() {
        Ok(value) => Ok(Value::Int(value)),
        Err(_) if text.trim_start_matches('-').bytes().all(|b| b.is_ascii_digit()) => {
            Ok(Value::Other("a large integer"))
        }
        Err(_) => Err("an invalid integer".into()),
    }
}
