//! JSON as Bitcoin Core writes it: key order kept, numbers verbatim, duplicate keys seen.
//!
//! A number is kept as its text, so an amount never passes through a float and a client sees every digit that the
//! node wrote. Objects are lists of pairs: a request with a key given twice can be refused, as Core does.
//! Source: the behaviour of Core's `univalue`.

mod parse;
mod write;

pub use parse::ParseError;

/// A JSON value. `Raw` holds text that is JSON already (an answer of the kernel) and is only for output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Value {
    #[default]
    Null,
    Bool(bool),
    /// The number as it was written.
    Num(String),
    Str(String),
    Arr(Vec<Value>),
    Obj(Vec<(String, Value)>),
    Raw(String),
}

/// What `value[..]` lookups give for a missing member.
pub static NULL: Value = Value::Null;

impl Value {
    /// An empty object, to be filled with [`Value::with`] or [`Value::push`].
    pub fn obj() -> Value {
        Value::Obj(Vec::new())
    }

    /// An array of anything that converts.
    pub fn arr<T: Into<Value>>(items: impl IntoIterator<Item = T>) -> Value {
        Value::Arr(items.into_iter().map(Into::into).collect())
    }

    /// Parses JSON text as strictly as Core (depth at most 512, nothing after the value).
    pub fn parse(text: &str) -> Result<Value, ParseError> {
        parse::parse(text)
    }

    /// A double with Core's sixteen significant digits: `1`, `0.5`, `4.656542373906925e-10`.
    pub fn double(value: f64) -> Value {
        Value::Num(write::format_double(value))
    }

    /// Adds a member at the end (builder form).
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Value {
        self.push(key, value);
        self
    }

    /// Adds a member if there is one (builder form).
    #[must_use]
    pub fn with_opt(self, key: &str, value: Option<impl Into<Value>>) -> Value {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// Adds a member at the end. On anything but an object it does nothing.
    pub fn push(&mut self, key: &str, value: impl Into<Value>) {
        if let Value::Obj(members) = self {
            members.push((key.to_owned(), value.into()));
        }
    }

    /// Adds an element at the end. On anything but an array it does nothing.
    pub fn push_item(&mut self, value: impl Into<Value>) {
        if let Value::Arr(items) = self {
            items.push(value.into());
        }
    }

    /// The first member of this name, or `Null`.
    pub fn member(&self, key: &str) -> &Value {
        self.find(key).unwrap_or(&NULL)
    }

    /// The first member of this name, if it is there.
    pub fn find(&self, key: &str) -> Option<&Value> {
        match self {
            Value::Obj(members) => members.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The element at this place, or `Null`.
    pub fn item(&self, index: usize) -> &Value {
        match self {
            Value::Arr(items) => items.get(index).unwrap_or(&NULL),
            _ => &NULL,
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The number's text.
    pub fn as_num(&self) -> Option<&str> {
        match self {
            Value::Num(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_i64(&self) -> Option<i64> {
        self.as_num().and_then(|text| text.parse().ok())
    }

    pub fn as_f64(&self) -> Option<f64> {
        self.as_num().and_then(|text| text.parse().ok())
    }

    pub fn as_arr(&self) -> Option<&[Value]> {
        match self {
            Value::Arr(items) => Some(items),
            _ => None,
        }
    }

    pub fn as_obj(&self) -> Option<&[(String, Value)]> {
        match self {
            Value::Obj(members) => Some(members),
            _ => None,
        }
    }

    /// The text of a string or number, `1` and `` for booleans, empty for the rest (Core's `getValStr`).
    pub fn val_str(&self) -> &str {
        match self {
            Value::Str(text) | Value::Num(text) => text,
            Value::Bool(true) => "1",
            _ => "",
        }
    }

    /// The type's name in Core's error texts.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Num(_) => "number",
            Value::Str(_) => "string",
            Value::Arr(_) => "array",
            Value::Obj(_) | Value::Raw(_) => "object",
        }
    }

    /// One line, no spaces.
    pub fn compact(&self) -> String {
        let mut out = String::new();
        write::compact(self, &mut out);
        out
    }

    /// Indented by `indent` spaces a level, as bitcoin-cli prints (2) and error texts do (4).
    pub fn pretty(&self, indent: usize) -> String {
        let mut out = String::new();
        write::pretty(self, indent, 1, &mut out);
        out
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Str(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Str(text)
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Value {
        Value::Str(text.clone())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value::Bool(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Value {
        Value::double(value)
    }
}

/// An amount of money: coins with eight decimals.
impl From<bitcoin::Amount> for Value {
    fn from(amount: bitcoin::Amount) -> Value {
        crate::amount::to_value(amount)
    }
}

/// A signed amount of money: coins with eight decimals.
impl From<bitcoin::SignedAmount> for Value {
    fn from(amount: bitcoin::SignedAmount) -> Value {
        crate::amount::signed_to_value(amount)
    }
}

impl From<()> for Value {
    fn from((): ()) -> Value {
        Value::Null
    }
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(items: Vec<T>) -> Value {
        Value::arr(items)
    }
}

macro_rules! from_integer {
    ($($int:ty),*) => {$(
        impl From<$int> for Value {
            fn from(value: $int) -> Value {
                Value::Num(value.to_string())
            }
        }
    )*};
}
from_integer!(i8, i16, i32, i64, i128, isize, u8, u16, u32, u64, u128, usize);

macro_rules! from_display {
    ($($shown:ty),*) => {$(
        impl From<$shown> for Value {
            fn from(value: $shown) -> Value {
                Value::Str(value.to_string())
            }
        }
    )*};
}
from_display!(bitcoin::Txid, bitcoin::Wtxid, bitcoin::BlockHash, bitcoin::Address);

#[cfg(test)]
mod tests;
