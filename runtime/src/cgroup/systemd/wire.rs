//! The part of the D-Bus wire format that talking to systemd's manager takes. Pure.
//!
//! A whole D-Bus library for five method calls would be the largest dependency of this crate; the format is small:
//! every value is aligned to its size, strings and arrays have their length before them.

/// Values of properties.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Bool(bool),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F64(f64),
    Text(String),
    Texts(Vec<String>),
    U32s(Vec<u32>),
    Bytes(Vec<u8>),
    Pairs(Vec<(String, String)>),
}

impl Value {
    pub(super) fn signature(&self) -> &'static str {
        match self {
            Self::Bool(_) => "b",
            Self::U32(_) => "u",
            Self::I32(_) => "i",
            Self::U64(_) => "t",
            Self::I64(_) => "x",
            Self::F64(_) => "d",
            Self::Text(_) => "s",
            Self::Texts(_) => "as",
            Self::U32s(_) => "au",
            Self::Bytes(_) => "ay",
            Self::Pairs(_) => "a(ss)",
        }
    }
}

const ENDIAN: u8 = if cfg!(target_endian = "big") { b'B' } else { b'l' };
const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// The fixed part of a message's header, with the length of its fields.
pub(super) const HEAD: usize = 16;

/// The specification's bound on a message.
const MESSAGE_MAX: usize = 128 << 20;

/// Writes values one after another.
#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.align(4);
        self.0.extend(value.to_ne_bytes());
    }

    fn eight(&mut self, bytes: [u8; 8]) {
        self.align(8);
        self.0.extend(bytes);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.u32(text.len() as u32);
        self.0.extend(text.bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(text.len() as u8);
        self.0.extend(text.bytes());
        self.0.push(0);
    }

    /// An array: its length in bytes does not count the padding before its first element.
    pub(super) fn array(&mut self, align: usize, elements: impl FnOnce(&mut Self)) {
        self.u32(0);
        let at = self.0.len() - 4;
        self.align(align);
        let start = self.0.len();
        elements(self);
        let length = (self.0.len() - start) as u32;
        self.0[at..at + 4].copy_from_slice(&length.to_ne_bytes());
    }

    fn variant(&mut self, value: &Value) {
        self.signature(value.signature());
        match value {
            Value::Bool(value) => self.u32(u32::from(*value)),
            Value::U32(value) => self.u32(*value),
            Value::I32(value) => self.u32(value.cast_unsigned()),
            Value::U64(value) => self.eight(value.to_ne_bytes()),
            Value::I64(value) => self.eight(value.to_ne_bytes()),
            Value::F64(value) => self.eight(value.to_ne_bytes()),
            Value::Text(text) => self.text(text),
            Value::Texts(texts) => self.array(4, |writer| texts.iter().for_each(|text| writer.text(text))),
            Value::U32s(values) => self.array(4, |writer| values.iter().for_each(|value| writer.u32(*value))),
            Value::Bytes(bytes) => self.array(1, |writer| writer.0.extend(bytes)),
            Value::Pairs(pairs) => self.array(8, |writer| {
                for (first, second) in pairs {
                    writer.align(8);
                    writer.text(first);
                    writer.text(second);
                }
            }),
        }
    }

    /// Properties: `a(sv)`.
    pub(super) fn properties(&mut self, properties: &[(String, Value)]) {
        self.array(8, |writer| {
            for (name, value) in properties {
                writer.align(8);
                writer.text(name);
                writer.variant(value);
            }
        });
    }
}

/// A method call.
pub(super) struct Call<'a> {
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
    pub(super) signature: &'a str,
}

impl Call<'_> {
    /// The message with this serial number and body.
    pub(super) fn message(&self, serial: u32, body: Writer) -> Vec<u8> {
        let mut message = Writer(vec![ENDIAN, METHOD_CALL, 0, 1]);
        message.u32(body.0.len() as u32);
        message.u32(serial);
        message.array(8, |writer| {
            let fields = [
                (PATH, "o", self.path),
                (INTERFACE, "s", self.interface),
                (MEMBER, "s", self.member),
                (DESTINATION, "s", self.destination),
                (SIGNATURE, "g", self.signature),
            ];
            for (field, signature, value) in fields.into_iter().filter(|field| !field.2.is_empty()) {
                writer.align(8);
                writer.0.push(field);
                writer.signature(signature);
                if signature == "g" { writer.signature(value) } else { writer.text(value) }
            }
        });
        message.align(8);
        message.0.extend(body.0);
        message.0
    }
}

/// What came back.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reply {
    /// The answer to the call of this number, and the texts in it.
    Return { to: u32, texts: Vec<String> },
    /// A refusal: its name and text.
    Error { to: u32, name: String, text: String },
    /// A signal and the texts in it.
    Signal { member: String, texts: Vec<String> },
    /// Something else.
    Other,
}

/// The length of the message that starts with this header. `None`: it is no message.
pub(super) fn length(head: &[u8; HEAD]) -> Option<usize> {
    let number = |at: usize| Some(u32::from_ne_bytes(head.get(at..at + 4)?.try_into().ok()?) as usize);
    let (body, fields) = (number(4)?, number(12)?);
    let length = (HEAD + fields).next_multiple_of(8) + body;
    (head[0] == ENDIAN && length <= MESSAGE_MAX).then_some(length)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.align(4);
        Some(u32::from_ne_bytes(self.take(4)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<String> {
        let length = self.u32()? as usize;
        let text = std::str::from_utf8(self.take(length)?).ok()?.to_owned();
        self.take(1)?;
        Some(text)
    }

    fn signature(&mut self) -> Option<&'a str> {
        let length = usize::from(*self.take(1)?.first()?);
        let text = std::str::from_utf8(self.take(length)?).ok()?;
        self.take(1)?;
        Some(text)
    }
}

/// Reads a whole message. `None`: it is malformed.
pub(super) fn parse(message: &[u8]) -> Option<Reply> {
    let mut reader = Reader { bytes: message, at: 12 };
    let fields = reader.u32()? as usize;
    let end = HEAD.checked_add(fields)?;
    let (mut to, mut member, mut error, mut signature) = (0, String::new(), String::new(), "");
    while reader.at < end {
        reader.align(8);
        let field = *reader.take(1)?.first()?;
        match (field, reader.signature()?) {
            (REPLY_SERIAL, "u") => to = reader.u32()?,
            (_, "u") => drop(reader.u32()?),
            (SIGNATURE, "g") => signature = reader.signature()?,
            (_, "g") => drop(reader.signature()?),
            (MEMBER, "s") => member = reader.text()?,
            (ERROR_NAME, "s") => error = reader.text()?,
            (_, "s" | "o") => drop(reader.text()?),
            _ => return None,
        }
    }
    reader.at = end.next_multiple_of(8);
    let mut texts = Vec::new();
    let mut kinds = signature.to_owned();
    while !kinds.is_empty() {
        match kinds.remove(0) {
            's' | 'o' => texts.push(reader.text()?),
            'u' => drop(reader.u32()?),
            'v' => kinds.insert_str(0, reader.signature()?),
            // Nothing that is asked for has other types in front.
            _ => break,
        }
    }
    Some(match *message.get(1)? {
        METHOD_RETURN => Reply::Return { to, texts },
        ERROR => Reply::Error { to, name: error, text: texts.into_iter().next().unwrap_or_default() },
        SIGNAL => Reply::Signal { member, texts },
        _ => Reply::Other,
    })
}

/// A message as systemd would send it: an answer, a refusal (with the end of its name) or a signal.
#[cfg(test)]
pub(super) fn tests_answer(kind: u8, to: u32, name: &str, texts: &[&str]) -> Vec<u8> {
    let mut body = Writer::default();
    if kind == SIGNAL {
        body.u32(1);
    }
    texts.iter().for_each(|text| body.text(text));
    let mut message = Writer(vec![ENDIAN, kind, 0, 1]);
    message.u32(body.0.len() as u32);
    message.u32(1);
    let error = format!("org.freedesktop.systemd1.{name}");
    let signature = format!("{}{}", if kind == SIGNAL { "u" } else { "" }, "s".repeat(texts.len()));
    message.array(8, |writer| {
        let (field, text) = if kind == ERROR { (ERROR_NAME, error.as_str()) } else { (MEMBER, name) };
        writer.0.push(field);
        writer.signature("s");
        writer.text(text);
        writer.align(8);
        writer.0.push(REPLY_SERIAL);
        writer.signature("u");
        writer.u32(to);
        writer.align(8);
        writer.0.push(SIGNATURE);
        writer.signature("g");
        writer.signature(&signature);
    });
    message.align(8);
    message.0.extend(body.0);
    message.0
}
