//! Options whose value is one of a few words.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The values of an option, and the words for them.
pub trait Vocabulary: Copy + PartialEq + fmt::Debug + Send + Sync + 'static {
    /// The words. If several have the same meaning, the first one is shown.
    const WORDS: &'static [(&'static str, Self)];
    /// Whether the words ignore case.
    const IGNORES_CASE: bool = false;
}

/// The value of an option that accepts one of a few words.
///
/// It is parsed once, when the configuration is decoded. An unknown word is kept: the API shows values as
/// written, and the option determines what happens to an object with such a value.
#[derive(Clone, PartialEq, Eq)]
pub struct Word<T> {
    written: Cow<'static, str>,
    meaning: Option<T>,
}

impl<T: Vocabulary> Word<T> {
    /// The empty value.
    pub const EMPTY: Self = Self { written: Cow::Borrowed(""), meaning: None };

    /// Returns the meaning; `None` if the value is empty.
    ///
    /// # Errors
    ///
    /// The word is unknown.
    pub fn meaning(&self) -> Result<Option<T>, UnknownWord> {
        match self.meaning {
            None if !self.is_empty() => {
                let expected = T::WORDS.iter().enumerate();
                let expected =
                    expected.filter(|(at, (_, one))| T::WORDS[..*at].iter().all(|(_, two)| one != two));
                let expected = expected.map(|(_, (word, _))| *word).collect();
                Err(UnknownWord { written: self.written.clone().into_owned(), expected })
            }
            meaning => Ok(meaning),
        }
    }

    /// Returns the meaning; `None` if the value is empty or unknown.
    pub fn known(&self) -> Option<T> {
        self.meaning
    }

    /// Returns the word as written.
    pub fn as_str(&self) -> &str {
        &self.written
    }

    /// Returns true if the value is empty.
    pub fn is_empty(&self) -> bool {
        self.written.is_empty()
    }
}

impl<T: Vocabulary> Default for Word<T> {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl<T: Vocabulary> From<T> for Word<T> {
    fn from(meaning: T) -> Self {
        let word = T::WORDS.iter().find(|(_, known)| *known == meaning).map_or("", |(word, _)| word);
        Self { written: Cow::Borrowed(word), meaning: Some(meaning) }
    }
}

impl<T: Vocabulary> From<&str> for Word<T> {
    fn from(written: &str) -> Self {
        let is_it = |word: &str| match T::IGNORES_CASE {
            true => word.eq_ignore_ascii_case(written),
            false => word == written,
        };
        match T::WORDS.iter().find(|(word, _)| is_it(word)) {
            Some((word, meaning)) if *word == written => {
                Self { written: Cow::Borrowed(word), meaning: Some(*meaning) }
            }
            found => {
                Self { written: Cow::Owned(written.to_owned()), meaning: found.map(|(_, meaning)| *meaning) }
            }
        }
    }
}

impl<T> fmt::Debug for Word<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.written, f)
    }
}

impl<T> fmt::Display for Word<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl<T> Serialize for Word<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.written)
    }
}

impl<'de, T: Vocabulary> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|written| Self::from(&*written))
    }
}

/// A word that an option does not accept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{written}` is unknown: expected {}", Alternatives(.expected))]
pub struct UnknownWord {
    /// The word as written.
    pub written: String,
    /// The accepted words.
    pub expected: Vec<&'static str>,
}

/// Formats as `` `a`, `b` or `c` ``.
struct Alternatives<'a>(&'a [&'static str]);

impl fmt::Display for Alternatives<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, word) in self.0.iter().enumerate() {
            match at {
                0 => {}
                last if last + 1 == self.0.len() => f.write_str(" or ")?,
                _ => f.write_str(", ")?,
            }
            write!(f, "`{word}`")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde::de::value::{Error, StrDeserializer};

    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Size {
        Small,
        Large,
        Huge,
    }

    impl Vocabulary for Size {
        const WORDS: &'static [(&'static str, Self)] =
            &[("small", Self::Small), ("Large", Self::Large), ("big", Self::Large), ("huge", Self::Huge)];
        const IGNORES_CASE: bool = true;
    }

    #[test]
    fn words_are_parsed_once_and_kept_as_written() {
        for (written, meaning) in [
            ("small", Some(Size::Small)),
            ("SMALL", Some(Size::Small)),
            ("big", Some(Size::Large)),
            ("", None),
        ] {
            let word = Word::<Size>::deserialize(StrDeserializer::<Error>::new(written)).unwrap();
            assert_eq!(word.meaning(), Ok(meaning), "{written}");
            assert_eq!((word.as_str(), word.to_string()), (written, written.to_owned()));
        }
        assert_eq!(Word::from(Size::Large).as_str(), "Large");
        assert_eq!(Word::from(Size::Large).known(), Some(Size::Large));
    }

    #[test]
    fn an_unknown_word_is_kept_and_reported_with_the_alternatives() {
        let word = Word::<Size>::from("tiny");
        assert_eq!((word.as_str(), word.known()), ("tiny", None));
        let error = word.meaning().unwrap_err().to_string();
        assert_eq!(error, "`tiny` is unknown: expected `small`, `Large` or `huge`");
    }
}
