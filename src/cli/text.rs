//! Texts for a terminal.

/// Replaces control characters, which would reach the terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

/// Returns rows below their titles, in columns of equal width.
pub(super) fn table<const N: usize>(titles: &[&str; N], rows: &[[String; N]]) -> String {
    let titles = titles.map(str::to_owned);
    let lines: Vec<&[String; N]> = std::iter::once(&titles).chain(rows).collect();
    let mut widths = [0; N];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(*line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let format = |line: &&[String; N]| {
        let cells = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(format).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mb\n"), "a\u{fffd}[31mb\u{fffd}");
    }
}
