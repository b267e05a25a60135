//! JSON as a portable file holds it: bounded in depth, and in memory by the length of the text.

use crate::{fail, Result};

/// How deep lists and objects may stand in each other.
const DEEPEST: usize = 64;

/// A JSON value; the pairs of an object are in the order of the text.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Value>),
    Object(Vec<(String, Value)>),
}

impl Value {
    /// The value of a key of an object; of several with one name the last counts.
    pub fn get(&self, key: &str) -> Option<&Value> {
        match self {
            Value::Object(pairs) => pairs.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// As `get`, where the key has to be there.
    pub fn need(&self, key: &str) -> Result<&Value> {
        match self.get(key) {
            Some(value) => Ok(value),
            None => fail(format!("no {} where it is expected; the file is damaged", shown(key))),
        }
    }

    pub fn text(&self) -> Result<&str> {
        match self {
            Value::Text(text) => Ok(text),
            _ => fail("another value where a text is expected; the file is damaged"),
        }
    }

    pub fn list(&self) -> Result<&[Value]> {
        match self {
            Value::List(items) => Ok(items),
            _ => fail("another value where a list is expected; the file is damaged"),
        }
    }

    pub fn pairs(&self) -> Result<&[(String, Value)]> {
        match self {
            Value::Object(pairs) => Ok(pairs),
            _ => fail("another value where an object is expected; the file is damaged"),
        }
    }

    pub fn flag(&self) -> Result<bool> {
        match self {
            Value::Bool(flag) => Ok(*flag),
            _ => fail("another value where true or false is expected; the file is damaged"),
        }
    }

    pub fn number(&self) -> Result<f64> {
        match self {
            Value::Number(number) => Ok(*number),
            _ => fail("another value where a number is expected; the file is damaged"),
        }
    }

    /// A whole number from 0 to `most`.
    pub fn count(&self, most: usize) -> Result<usize> {
        let number = self.number()?;
        if number.fract() != 0.0 || !(0.0..=most as f64).contains(&number) {
            return fail(format!("a number is no count up to {}; the file is damaged", most));
        }
        Ok(number as usize)
    }
}

/// The value that a text holds and nothing more. `NaN` and `Infinity`, which Python writes, are numbers.
pub fn parse(text: &str) -> Result<Value> {
    let mut parser = Parser { bytes: text.as_bytes(), text, at: 0 };
    let value = parser.value(0)?;
    parser.blanks();
    if parser.at < text.len() {
        return fail("JSON with more after its end; the file is damaged");
    }
    Ok(value)
}

/// A name in an error: short, and on one line.
pub fn shown(name: &str) -> String {
    name.chars().take(60).flat_map(char::escape_default).collect()
}

struct Parser<'a> {
    bytes: &'a [u8],
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn value(&mut self, depth: usize) -> Result<Value> {
        self.blanks();
        match self.bytes.get(self.at) {
            Some(b'{') if depth < DEEPEST => self.object(depth),
            Some(b'[') if depth < DEEPEST => self.items(depth),
            Some(b'"') => Ok(Value::Text(self.string()?)),
            Some(_) => self.word(),
            None => fail("JSON that is cut short; the file is damaged"),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value> {
        let mut pairs = Vec::new();
        self.at += 1;
        if self.takes(b'}') {
            return Ok(Value::Object(pairs));
        }
        loop {
            self.blanks();
            let name = self.string()?;
            self.expect(b':')?;
            pairs.push((name, self.value(depth + 1)?));
            if self.takes(b'}') {
                return Ok(Value::Object(pairs));
            }
            self.expect(b',')?;
        }
    }

    fn items(&mut self, depth: usize) -> Result<Value> {
        let mut items = Vec::new();
        self.at += 1;
        if self.takes(b']') {
            return Ok(Value::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            if self.takes(b']') {
                return Ok(Value::List(items));
            }
            self.expect(b',')?;
        }
    }

    fn string(&mut self) -> Result<String> {
        self.expect(b'"')?;
        let mut found = String::new();
        loop {
            let rest = &self.bytes[self.at..];
            let end = match rest.iter().position(|&byte| byte == b'"' || byte == b'\\' || byte < 0x20) {
                Some(end) => end,
                None => return fail("JSON with a text that has no end; the file is damaged"),
            };
            // Both ends are ASCII, and so borders of characters.
            found.push_str(&self.text[self.at..self.at + end]);
            self.at += end + 1;
            match rest[end] {
                b'"' => return Ok(found),
                b'\\' => found.push(self.escape()?),
                _ => return fail("JSON with a control character in a text; the file is damaged"),
            }
        }
    }

    fn escape(&mut self) -> Result<char> {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        Ok(match byte {
            b'"' | b'\\' | b'/' => byte as char,
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = self.hex()?;
                let mut code = first;
                if (0xd800..0xdc00).contains(&first) && self.bytes[self.at..].starts_with(b"\\u") {
                    self.at += 2;
                    code = 0x10000 + ((first - 0xd800) << 10) + self.hex()?.wrapping_sub(0xdc00) % 0x400;
                }
                // A lone half of a pair is no character.
                char::from_u32(code).unwrap_or('\u{fffd}')
            }
            _ => return fail("JSON with an unknown escape; the file is damaged"),
        })
    }

    fn hex(&mut self) -> Result<u32> {
        let digits = self.text.get(self.at..self.at + 4).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        self.at += 4;
        match digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()) {
            Some(code) => Ok(code),
            None => fail("JSON with a bad escape; the file is damaged"),
        }
    }

    fn word(&mut self) -> Result<Value> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|byte| b",:]} \t\r\n[{\"".contains(byte)).unwrap_or(rest.len());
        let word = self.text.get(self.at..self.at + end).unwrap_or("");
        self.at += end;
        match word {
            "null" => Ok(Value::Null),
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            "NaN" => Ok(Value::Number(f64::NAN)),
            "Infinity" => Ok(Value::Number(f64::INFINITY)),
            "-Infinity" => Ok(Value::Number(f64::NEG_INFINITY)),
            _ => match number(word) {
                Some(number) => Ok(Value::Number(number)),
                None => fail("no JSON, or nested too deep; the file is damaged"),
            },
        }
    }

    fn blanks(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn takes(&mut self, byte: u8) -> bool {
        self.blanks();
        let found = self.bytes.get(self.at) == Some(&byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        if self.takes(byte) {
            return Ok(());
        }
        fail("JSON that is cut short or edited; the file is damaged")
    }
}

/// A number of JSON: exactly rounded with up to 15 digits and powers of ten up to 22, as configs have them, and else
/// within a few units of the last place. The standard library's parser is exact, and an eighth of the WebAssembly.
fn number(word: &str) -> Option<f64> {
    let (size, sign) = word.strip_prefix('-').map_or((word, 1.0), |size| (size, -1.0));
    let (digits, power) = size.split_once(['e', 'E']).unwrap_or((size, "0"));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let power: i32 = power.strip_prefix('+').unwrap_or(power).parse().ok()?;
    if whole.is_empty() || fraction.is_empty() || whole.len() + fraction.len() > 400 {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    let (mut found, mut tens) = (0.0, power.checked_sub(fraction.len() as i32)?);
    for byte in whole.bytes().chain(fraction.bytes()) {
        found = match byte {
            b'0'..=b'9' => found * 10.0 + f64::from(byte - b'0'),
            _ => return None,
        };
    }
    while tens != 0 && found != 0.0 && found < f64::INFINITY {
        let step = tens.clamp(-22, 22);
        let by = (0..step.abs()).fold(1.0, |by, _| by * 10.0);
        found = if step > 0 { found * by } else { found / by };
        tens -= step;
    }
    Some(sign * found)
}

#[test]
fn numbers_are_those_of_the_standard_library() {
    for word in ["0", "-0.0", "1e-05", "10000.0", "0.1", "1.0000000000000002", "123456789012345", "4E22"] {
        assert_eq!(number(word), word.parse().ok(), "{}", word);
    }
    for word in ["3.4028235e+38", "1e300", "2.2250738585072014e-308", "12345678901234567890.123"] {
        let (found, exact) = (number(word).unwrap(), word.parse::<f64>().unwrap());
        assert!((found - exact).abs() <= exact * 1e-14, "{}", word);
    }
    for word in ["", "-", ".5", "5.", "1e", "e5", "0x1", "1 2", "1e99999999999", "inf", "nan", "+1", "--1", "1.-5"] {
        assert_eq!(number(word), None, "{}", word);
    }
    assert_eq!(number("1e999"), Some(f64::INFINITY));
    assert_eq!(number("1e-999"), Some(0.0));
    assert_eq!(number("0e999999999"), Some(0.0));
}
