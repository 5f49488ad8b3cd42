//! Splits a command line into words, as a shell would, and does nothing else that a shell does.
//!
//! Quotes and backslashes work. What a shell would expand or redirect is refused rather than passed
//! on as it is: whoever writes `> log` means a file, not an argument.

/// Characters that mean something to a shell outside quotes, and would be lost on the program.
const SHELL_ONLY: &str = "|&;<>$`()*?";

/// The words of `line`.
pub(super) fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = vec![];
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => {
                let escaped = chars.next().ok_or("it ends in a backslash")?;
                let word = word.get_or_insert_default();
                if quote.is_some() && !matches!(escaped, '"' | '\\' | '$' | '`') {
                    word.push('\\');
                }
                word.push(escaped);
            }
            (None, _) if c.is_whitespace() => words.extend(word.take()),
            (None, _) if SHELL_ONLY.contains(c) => return Err(shell_needed(c)),
            (Some('"'), '$' | '`') => return Err(shell_needed(c)),
            _ => word.get_or_insert_default().push(c),
        }
    }
    if let Some(quote) = quote {
        return Err(format!("a quote {quote} is not closed"));
    }
    words.extend(word);
    Ok(words)
}

fn shell_needed(c: char) -> String {
    format!(
        "{c:?} needs a shell, and none is involved; quote it with '...', or write [\"sh\", \"-c\", \"...\"]"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_split_like_in_a_shell() {
        let cases: [(&str, &[&str]); 8] = [
            ("", &[]),
            ("  ./run  --port\t80 ", &["./run", "--port", "80"]),
            ("a 'b c' \"d e\"", &["a", "b c", "d e"]),
            ("a ''", &["a", ""]),
            (r"a\ b 'c\d'", &["a b", r"c\d"]),
            (r#""a\"b\\c\d\$e""#, &[r#"a"b\c\d$e"#]),
            ("pre'mid'\"post\"", &["premidpost"]),
            ("'*.txt' \\* '$HOME'", &["*.txt", "*", "$HOME"]),
        ];
        for (line, expected) in cases {
            assert_eq!(split(line).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn what_needs_a_shell_is_refused() {
        for line in ["a > b", "a | b", "a && b", "echo $HOME", "\"$HOME\"", "`a`", "ls *"] {
            let reason = split(line).unwrap_err();
            assert!(reason.contains("sh"), "{line}: {reason}");
        }
        for line in ["'a", "\"a", "a\\"] {
            split(line).unwrap_err();
        }
    }
}
