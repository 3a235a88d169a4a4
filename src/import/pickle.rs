//! What a pickle describes, as plain data: values, and nodes of one arena that they refer to, so that
//! cycles, shared objects and deep nesting cost neither recursion nor copies. A global is a name, a
//! call a record of its callee and arguments; nothing is called. [`super::machine`] builds it.

use std::rc::Rc;

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    None,
    Bool(bool),
    Int(i64),
    Str(Rc<str>),
    /// A value that no state dict needs: what it is.
    Other(&'static str),
    /// An object: an index into [`Pickle::nodes`].
    Node(usize),
}

#[derive(Debug)]
pub enum Node {
    Tuple(Vec<Value>),
    /// A list or a set.
    List(Vec<Value>),
    /// A dict or an OrderedDict, in order of insertion; a later pair overrides an equal key.
    Dict(Vec<(Value, Value)>),
    Global {
        module: Rc<str>,
        name: Rc<str>,
    },
    /// A call that is not made.
    Call {
        callee: Value,
        args: Value,
    },
    /// `torch.save` refers to a storage by a persistent id.
    Persistent(Value),
}

/// The object that a pickle describes.
#[derive(Debug)]
pub struct Pickle {
    pub nodes: Vec<Node>,
    pub root: Value,
}

impl Pickle {
    pub fn node(&self, value: &Value) -> Option<&Node> {
        match value {
            Value::Node(i) => self.nodes.get(*i),
            _ => None,
        }
    }

    pub fn tuple(&self, value: &Value) -> Option<&[Value]> {
        match self.node(value) {
            Some(Node::Tuple(items)) => Some(items),
            _ => None,
        }
    }

    /// Module and name of a global.
    pub fn global(&self, value: &Value) -> Option<(&str, &str)> {
        match self.node(value) {
            Some(Node::Global { module, name }) => Some((module, name)),
            _ => None,
        }
    }

    /// What a value is, for a message.
    pub fn describe(&self, value: &Value) -> String {
        match value {
            Value::None => "None".into(),
            Value::Bool(_) => "a bool".into(),
            Value::Int(_) => "an integer".into(),
            Value::Str(_) => "a string".into(),
            Value::Other(kind) => (*kind).into(),
            Value::Node(_) => match self.node(value) {
                Some(Node::Tuple(_)) => "a tuple".into(),
                Some(Node::List(_)) => "a list".into(),
                Some(Node::Dict(_)) => "a dict".into(),
                Some(Node::Global { module, name }) => {
                    format!("the global {}", super::shown(&format!("{module}.{name}")))
                }
                Some(Node::Call { callee, .. }) => match self.global(callee) {
                    Some((module, name)) => {
                        let name = super::shown(&format!("{module}.{name}"));
                        format!("an object of {name} (opaque: nothing in a pickle is called)")
                    }
                    None => "an opaque object".into(),
                },
                Some(Node::Persistent(_)) => "a bare storage".into(),
                None => "a dangling reference".into(),
            },
        }
    }
}
