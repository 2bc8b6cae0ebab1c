//! Distinguished names as text (RFC 4514).

/// Returns the text of a DN with one more component in front of `base`. The value is escaped: it cannot add or change
/// components.
pub(super) fn below(attribute: &str, value: &str, base: &str) -> String {
    let mut dn = String::with_capacity(attribute.len() + value.len() + base.len() + 2);
    dn.push_str(attribute);
    dn.push('=');
    let last = value.chars().count().saturating_sub(1);
    for (index, character) in value.chars().enumerate() {
        match character {
            ' ' if index == 0 || index == last => dn.push_str("\\ "),
            '#' if index == 0 => dn.push_str("\\#"),
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=' => {
                dn.push('\\');
                dn.push(character);
            }
            // NUL must be escaped; other control characters are, so that none is trimmed.
            control if control.is_ascii_control() => {
                const DIGITS: &[u8; 16] = b"0123456789abcdef";
                let byte = u32::from(control) as usize;
                dn.push('\\');
                dn.push(char::from(DIGITS[byte >> 4 & 15]));
                dn.push(char::from(DIGITS[byte & 15]));
            }
            other => dn.push(other),
        }
    }
    dn.push(',');
    dn.push_str(base);
    dn
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Splits a DN into its components, each with its value unescaped.
    fn components(dn: &str) -> Vec<(String, Vec<u8>)> {
        let (mut out, mut attribute, mut value) = (Vec::new(), None::<String>, Vec::new());
        let bytes = dn.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            match (bytes[at], &attribute) {
                (b'\\', _) => {
                    let hex = dn
                        .get(at + 1..at + 3)
                        .filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
                    let hex = hex.and_then(|text| u8::from_str_radix(text, 16).ok());
                    match hex {
                        Some(byte) => value.push(byte),
                        None => value.push(bytes[at + 1]),
                    }
                    at += if hex.is_some() { 3 } else { 2 };
                    continue;
                }
                (b'=', None) => attribute = Some(String::from_utf8(std::mem::take(&mut value)).unwrap()),
                (b',' | b'+' | b';', _) => {
                    out.push((attribute.take().unwrap(), std::mem::take(&mut value)));
                }
                (byte, _) => value.push(byte),
            }
            at += 1;
        }
        out.push((attribute.unwrap(), value));
        out
    }

    #[test]
    fn values_of_the_rfc_are_escaped() {
        assert_eq!(below("cn", "Smith, James", "dc=net"), "cn=Smith\\, James,dc=net");
        assert_eq!(below("cn", " a ", "dc=net"), "cn=\\ a\\ ,dc=net");
        assert_eq!(below("cn", "#1#", "dc=net"), "cn=\\#1#,dc=net");
        assert_eq!(below("cn", "a\0b\r", "dc=net"), "cn=a\\00b\\0d,dc=net");
        assert_eq!(below("cn", "x,ou=admins", "dc=net"), "cn=x\\,ou\\=admins,dc=net");
    }

    proptest! {
        #[test]
        fn no_name_changes_the_components(name in "\\PC{0,20}|[ #,+\"\\\\<>;=a\\x00-\\x1f]{0,12}") {
            let dn = below("uid", &name, "dc=example");
            let expected = vec![
                ("uid".to_owned(), name.clone().into_bytes()), ("dc".to_owned(), b"example".to_vec()),
            ];
            prop_assert_eq!(components(&dn), expected);
            let first = dn["uid=".len()..].chars().next();
            prop_assert!(!matches!(first, Some(' ' | '#')));
        }
    }
}
