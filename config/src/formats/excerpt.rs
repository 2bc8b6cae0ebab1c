//! Shows the place of a problem in its source, like a compiler.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use crate::origin::{Origin, Problem};

/// Lines shown before and after the marked one.
const CONTEXT_LINES: usize = 2;
/// Longer lines are not shown: they would fill the screen.
const MAX_LINE_LEN: usize = 400;

/// Maximum number of excerpts per file.
const MAX_EXCERPTS: usize = 100;

/// Adds excerpts to the problems in this file that lack one.
pub fn fill(problems: &mut [Problem], file: &str, source: &str) {
    let here = |problem: &&mut Problem| {
        problem.excerpt.is_none() && matches!(&problem.origin, Origin::File { path, .. } if **path == *file)
    };
    for problem in problems.iter_mut().filter(here).take(MAX_EXCERPTS) {
        problem.excerpt = render(source, &problem.origin, &problem.message);
    }
}

/// Renders the lines around an origin with the place marked. `None` when the origin is not a line of this
/// text.
pub fn render(source: &str, origin: &Origin, message: &str) -> Option<String> {
    let Origin::File { path, line, column } = origin else { return None };
    let line = usize::try_from(*line).ok().filter(|line| *line > 0)? - 1;
    let first = line.saturating_sub(CONTEXT_LINES);
    let lines: Vec<&str> = source.lines().skip(first).take(line - first + CONTEXT_LINES + 1).collect();
    let marked = *lines.get(line - first)?;
    if lines.iter().any(|line| line.len() > MAX_LINE_LEN) {
        return None;
    }
    let before: usize = lines[..line - first].iter().map(|line| line.len() + 1).sum();
    let column = usize::try_from(*column).ok()?.saturating_sub(1);
    let start = marked.char_indices().nth(column).map_or(marked.trim_end().len(), |(at, _)| at);
    let end = start + marked[start..].find([':', ' ', '=', ',']).unwrap_or(marked.len() - start);
    let text = lines.join("\n");
    let snippet = Snippet::source(&text)
        .path(&**path)
        .line_start(first + 1)
        .fold(false)
        .annotation(AnnotationKind::Primary.span(before + start..before + end.max(start)));
    let report = &[Level::ERROR.primary_title(message).element(snippet)];
    Some(Renderer::plain().render(report))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: u32, column: u32) -> Origin {
        Origin::File { path: "f.yml".into(), line, column }
    }

    #[test]
    fn the_place_is_marked() {
        let source = "one: 1\ntwo: 2\nthrée: drei\nfour: 4\nfive: 5\nsix: 6\n";
        let shown = render(source, &at(3, 8), "wrong").expect("an excerpt");
        let expected = "error: wrong\n --> f.yml:3:8\n  |\n1 | one: 1\n2 | two: 2\n3 | thrée: drei\n  |        ^^^^\n4 | four: 4\n5 | five: 5";
        assert_eq!(shown.trim_end_matches(['\n', ' ', '|']), expected);
    }

    #[test]
    fn places_outside_the_source_have_no_excerpt() {
        for origin in [at(0, 0), at(9, 1), Origin::Internal] {
            assert_eq!(render("a: 1\n", &origin, "wrong"), None, "{origin:?}");
        }
        assert!(render("a: 1\n", &at(1, 900), "wrong").is_some(), "a column too far is the end of the line");
        assert!(render("", &at(1, 1), "wrong").is_none());
        assert!(render(&"x".repeat(5000), &at(1, 1), "wrong").is_none(), "too long a line");
    }

    #[test]
    fn only_problems_of_the_file_are_filled() {
        let problem = |path: &str| Problem {
            origin: Origin::File { path: path.into(), line: 1, column: 1 },
            object: None,
            message: "wrong".into(),
            excerpt: None,
        };
        let mut problems = [problem("f.yml"), problem("g.yml")];
        fill(&mut problems, "f.yml", "a: 1\n");
        assert_eq!(problems.map(|problem| problem.excerpt.is_some()), [true, false]);
    }
}
