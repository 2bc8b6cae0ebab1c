//! `tidegate top`: routes, servers and clients of a running gateway by rate, errors and response time.

mod rows;
mod screen;

use std::io::{self, IsTerminal as _};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::client::{ApiArguments, ApiClient, ApiError};
use rows::{Sort, Statistics};
use screen::Screen;

/// How long the screen waits for a key before it looks for new numbers.
const TICK: Duration = Duration::from_millis(50);
/// Maximum number of rows of each kind that the API is asked for.
const MAX_ROWS: usize = 200;

#[derive(Args)]
pub(super) struct Top {
    #[command(flatten)]
    api: ApiArguments,
    /// Order of the rows.
    #[arg(long, value_enum, default_value_t = Sort::Rate)]
    sort: Sort,
    /// Seconds between two updates, and how long requests are counted at least with --once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// Print the numbers once, as plain text, and exit.
    #[arg(long)]
    once: bool,
    /// Maximum number of rows of each kind with --once.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    limit: u64,
}

/// Why there is nothing to see.
#[derive(Debug, thiserror::Error)]
pub(super) enum TopError {
    /// The API did not answer.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The output is not a terminal, or it failed.
    #[error("cannot use the terminal: {0}")]
    Terminal(#[from] io::Error),
    /// The output is not a terminal.
    #[error("the output is not a terminal: use --once for plain text")]
    NoTerminal,
}

impl Top {
    /// Returns the numbers as text with `--once`, or else shows them until the user quits.
    pub(super) fn run(&self) -> Result<Option<String>, TopError> {
        let client = self.api.client()?;
        if self.once {
            let interval = Duration::from_secs(self.interval);
            let mut statistics = ask(&client, self.sort, self.limit as usize)?;
            if !statistics.covers(interval) {
                // The gateway may have begun to count with this question.
                std::thread::sleep(interval);
                statistics = ask(&client, self.sort, self.limit as usize)?;
            }
            return Ok(Some(statistics.text(self.sort)));
        }
        if !io::stdout().is_terminal() {
            return Err(TopError::NoTerminal);
        }
        // Before the screen changes, so that a mistake in the arguments remains visible.
        let first = ask(&client, self.sort, MAX_ROWS)?;
        let mut terminal = ratatui::try_init()?;
        let shown = self.show(client, first, &mut terminal);
        ratatui::restore();
        shown.map(|()| None)
    }

    fn show(
        &self,
        client: ApiClient,
        first: Statistics,
        terminal: &mut ratatui::DefaultTerminal,
    ) -> Result<(), TopError> {
        let mut screen = Screen::new(client.place().to_owned(), self.sort, first);
        let sort = Arc::new(AtomicU8::new(self.sort as u8));
        let updates = start_asking(client, sort.clone(), Duration::from_secs(self.interval));
        loop {
            for update in updates.try_iter() {
                screen.update(update);
            }
            terminal.draw(|frame| screen.draw(frame))?;
            if !event::poll(TICK)? {
                continue;
            }
            if let Event::Key(key) = event::read()? {
                if key.kind == KeyEventKind::Release {
                    continue;
                }
                if quits(&key) {
                    return Ok(());
                }
                screen.press(key.code);
                sort.store(screen.sort() as u8, Ordering::Relaxed);
            }
        }
    }
}

/// Returns true for a key that ends the program.
fn quits(key: &KeyEvent) -> bool {
    let is_interrupt = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
    is_interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
}

/// Asks the API again and again in another thread, so that a slow one does not hold up keys.
fn start_asking(
    client: ApiClient,
    sort: Arc<AtomicU8>,
    interval: Duration,
) -> mpsc::Receiver<Result<Statistics, ApiError>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(interval);
            let sort = Sort::of(sort.load(Ordering::Relaxed));
            if sender.send(ask(&client, sort, MAX_ROWS)).is_err() {
                // The user has quit.
                return;
            }
        }
    });
    receiver
}

fn ask(client: &ApiClient, sort: Sort, limit: usize) -> Result<Statistics, ApiError> {
    let statistics = client.get(&format!("statistics?sortBy={}&limit={limit}", sort.name()))?;
    Ok(Statistics::of(&statistics))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q_escape_and_an_interrupt_quit() {
        let key = |code, modifiers| quits(&KeyEvent::new(code, modifiers));
        assert!(key(KeyCode::Char('q'), KeyModifiers::NONE) && key(KeyCode::Esc, KeyModifiers::NONE));
        assert!(key(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert!(!key(KeyCode::Char('c'), KeyModifiers::NONE) && !key(KeyCode::Tab, KeyModifiers::NONE));
    }
}
