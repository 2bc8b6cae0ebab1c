//! The screen of `tidegate top`.

use ratatui::Frame;
use ratatui::crossterm::event::KeyCode;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row as TableRow, Table};

use super::rows::{COLUMNS, Kind, Row, Sort, Statistics, WIDTH};
use crate::cli::client::ApiError;

/// The keys that sort.
const SORT_KEYS: [(char, Sort); 5] =
    [('r', Sort::Rate), ('e', Sort::Errors), ('5', Sort::P50), ('9', Sort::P99), ('n', Sort::Name)];
/// The keys that show one kind.
const KIND_KEYS: [(char, Kind); 4] =
    [('1', Kind::Routers), ('2', Kind::Services), ('3', Kind::Servers), ('4', Kind::Clients)];
/// A share of errors from which a row is red.
const MANY_ERRORS: f64 = 0.05;

/// What is on the screen.
pub(super) struct Screen {
    /// The URL of the gateway.
    place: String,
    sort: Sort,
    /// The kind that fills the screen; `None` for all.
    only: Option<Kind>,
    is_paused: bool,
    statistics: Statistics,
    /// Why the numbers are old.
    error: Option<String>,
}

impl Screen {
    pub(super) fn new(place: String, sort: Sort, statistics: Statistics) -> Self {
        let mut screen = Self { place, sort, only: None, is_paused: false, statistics, error: None };
        screen.statistics.sort(sort);
        screen
    }

    /// Returns the order of the rows.
    pub(super) fn sort(&self) -> Sort {
        self.sort
    }

    /// Takes new numbers, or why there are none.
    pub(super) fn update(&mut self, update: Result<Statistics, ApiError>) {
        match update {
            Err(error) => self.error = Some(error.to_string()),
            Ok(_) if self.is_paused => self.error = None,
            Ok(statistics) => {
                (self.statistics, self.error) = (statistics, None);
                self.statistics.sort(self.sort);
            }
        }
    }

    /// Handles a key.
    pub(super) fn press(&mut self, key: KeyCode) {
        match key {
            KeyCode::Char('p') => self.is_paused = !self.is_paused,
            KeyCode::Char('0' | 'a') => self.only = None,
            KeyCode::Tab => self.only = next(self.only),
            KeyCode::Char(key) => {
                if let Some((_, sort)) = SORT_KEYS.iter().find(|(known, _)| *known == key) {
                    self.sort = *sort;
                    self.statistics.sort(*sort);
                } else if let Some((_, kind)) = KIND_KEYS.iter().find(|(known, _)| *known == key) {
                    self.only = Some(*kind);
                }
            }
            _ => {}
        }
    }

    /// Draws everything.
    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let entry_points = self.statistics.rows(Kind::EntryPoints).len().min(6) as u16;
        let [head, points, rest, foot] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(entry_points + 2),
            Constraint::Fill(1),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(self.head(), head);
        self.table(frame, Kind::EntryPoints, points);
        match self.only {
            Some(kind) => self.table(frame, kind, rest),
            None => {
                let shown = [Kind::Routers, Kind::Servers, Kind::Clients];
                let areas: [Rect; 3] =
                    Layout::vertical([Constraint::Fill(2), Constraint::Fill(2), Constraint::Fill(1)])
                        .areas(rest);
                for (kind, area) in shown.into_iter().zip(areas) {
                    self.table(frame, kind, area);
                }
            }
        }
        let keys = "q quit  r e 5 9 n sort  1-4 0 Tab tables  p pause";
        frame.render_widget(Paragraph::new(keys).style(Style::new().add_modifier(Modifier::DIM)), foot);
    }

    fn head(&self) -> Paragraph<'_> {
        let mut text = format!("{}  sorted by {}", self.place, self.sort.name());
        if self.is_paused {
            text.push_str("  paused");
        }
        if self.statistics.lost > 0 {
            text.push_str(&format!("  {} requests not counted", self.statistics.lost));
        }
        match &self.error {
            Some(error) => Paragraph::new(format!("{text}  {error}")).style(Style::new().fg(Color::Red)),
            None => Paragraph::new(text),
        }
    }

    fn table(&self, frame: &mut Frame<'_>, kind: Kind, area: Rect) {
        let right = |text: String| Cell::new(Text::from(text).alignment(Alignment::Right));
        let titles = COLUMNS.iter().map(|title| right((*title).to_owned()));
        let header = TableRow::new(std::iter::once(Cell::new(kind.title())).chain(titles))
            .style(Style::new().add_modifier(Modifier::BOLD));
        let row = |row: &Row| {
            let cells = std::iter::once(Cell::new(row.name.clone())).chain(row.cells().map(right));
            TableRow::new(cells).style(match row.share_of_errors() {
                share if share >= MANY_ERRORS => Style::new().fg(Color::Red),
                share if share > 0.0 => Style::new().fg(Color::Yellow),
                _ => Style::new(),
            })
        };
        // Each column has a space on its left.
        let numbers = COLUMNS.iter().map(|_| Constraint::Length(WIDTH as u16 - 1));
        let widths = std::iter::once(Constraint::Fill(1)).chain(numbers);
        let all = self.statistics.rows(kind);
        let room = usize::from(area.height.saturating_sub(2));
        let mut block = Block::new().borders(Borders::TOP);
        if all.len() > room {
            block = block.title_top(Line::from(format!(" {room} of {} ", all.len())).right_aligned());
        }
        frame.render_widget(Table::new(all.iter().map(row), widths).header(header).block(block), area);
    }
}

/// Returns the kind after this one, and after the last one all.
fn next(kind: Option<Kind>) -> Option<Kind> {
    let kinds = KIND_KEYS.map(|(_, kind)| kind);
    match kind.and_then(|kind| kinds.iter().position(|known| *known == kind)) {
        None => Some(kinds[0]),
        Some(place) => kinds.get(place + 1).copied(),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::style::Color;

    use super::super::rows::tests::example;
    use super::*;

    fn screen() -> Screen {
        Screen::new("http://127.0.0.1:8080".into(), Sort::Rate, example())
    }

    /// Returns the lines of a screen of this size, and the colours of their first cells.
    fn drawn(screen: &Screen, width: u16, height: u16) -> (Vec<String>, Vec<Color>) {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y: u16| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        let lines = (0..height).map(|y| line(y).trim_end().to_owned()).collect();
        (lines, (0..height).map(|y| buffer[(0, y)].fg).collect())
    }

    #[test]
    fn the_screen_has_a_table_for_each_kind() {
        let (lines, colors) = drawn(&screen(), 100, 24);
        assert_eq!(lines[0], "http://127.0.0.1:8080  sorted by rate  3 requests not counted");
        assert!(lines[2].starts_with("Entry points") && lines[2].ends_with("P99"), "{lines:#?}");
        assert_eq!(
            lines[3].split_whitespace().collect::<Vec<_>>(),
            ["web", "2012", "1006", "1.2", "0.1", "3.5ms", "35.0ms"]
        );
        let place = |text: &str| lines.iter().position(|line| line.starts_with(text)).unwrap();
        assert!(place("app@docker  ") < place("api@file"), "{lines:#?}");
        assert!(place("http://10.0.0.7 app@docker") < place("192.0.2.7"), "{lines:#?}");
        assert_eq!(lines[23], "q quit  r e 5 9 n sort  1-4 0 Tab tables  p pause");
        let color = |text: &str| colors[place(text)];
        assert_eq!(
            (color("web"), color("api@file"), color("app@docker  ")),
            (Color::Yellow, Color::Red, Color::Reset)
        );
    }

    #[test]
    fn keys_sort_and_choose_a_table() {
        let mut screen = screen();
        screen.press(KeyCode::Char('e'));
        screen.press(KeyCode::Char('1'));
        let (lines, _) = drawn(&screen, 80, 8);
        assert!(lines[0].contains("sorted by errors") && lines[5].starts_with("Routers"), "{lines:#?}");
        assert!(lines[6].starts_with("api@file"), "{lines:#?}");
        assert!(lines[4].contains(" 1 of 2"), "{lines:#?}");
        let mut kinds = Vec::new();
        for _ in 0..5 {
            screen.press(KeyCode::Tab);
            kinds.push(screen.only);
        }
        let [routers, services, servers, clients] = KIND_KEYS.map(|(_, kind)| Some(kind));
        assert_eq!(kinds, [services, servers, clients, None, routers]);
    }

    #[test]
    fn an_error_leaves_the_numbers_and_a_pause_keeps_them() {
        let mut screen = screen();
        screen.update(Err(ApiError::Unauthorized));
        let (lines, colors) = drawn(&screen, 120, 24);
        assert!(lines[0].contains("the API requires credentials") && colors[0] == Color::Red, "{lines:#?}");
        assert!(lines[3].starts_with("web"), "{lines:#?}");
        screen.press(KeyCode::Char('p'));
        screen.update(Ok(Statistics::default()));
        let (lines, _) = drawn(&screen, 80, 24);
        assert!(lines[0].contains("paused") && !lines[0].contains("credentials"), "{lines:#?}");
        assert!(lines[3].starts_with("web"), "{lines:#?}");
        screen.press(KeyCode::Char('p'));
        screen.update(Ok(Statistics::default()));
        let (lines, _) = drawn(&screen, 80, 24);
        assert!(!lines[3].starts_with("web"), "{lines:#?}");
    }

    #[test]
    fn a_tiny_terminal_is_no_error() {
        for (width, height) in [(1, 1), (10, 3), (30, 5), (200, 60)] {
            drawn(&screen(), width, height);
        }
    }
}
