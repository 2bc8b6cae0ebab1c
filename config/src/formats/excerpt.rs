//! Shows the place of a problem in its source, as compilers do.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use crate::origin::Origin;

/// Lines shown before and behind the marked one.
const AROUND: usize = 2;
/// Longer lines are not shown: they would fill the screen.
const LONGEST_LINE: usize = 400;

/// Renders the lines around an origin with the place marked. `None` when the origin is no line of this text.
pub fn render(source: &str, origin: &Origin, message: &str) -> Option<String> {
    let Origin::File { path, line, column } = origin else { return None };
    let line = usize::try_from(*line).ok().filter(|line| *line > 0)? - 1;
    let first = line.saturating_sub(AROUND);
    let lines: Vec<&str> = source.lines().skip(first).take(line - first + AROUND + 1).collect();
    let marked = *lines.get(line - first)?;
    if lines.iter().any(|line| line.len() > LONGEST_LINE) {
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
        .annotation(AnnotationKind::Primary.span(before + start..before + end.max(start)));
    let report = &[Level::ERROR.primary_title(message).element(snippet)];
    Some(Renderer::plain().render(report))
}
