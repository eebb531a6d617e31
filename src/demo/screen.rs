//! The screen: panels on a terminal, plain lines anywhere else.

#![expect(clippy::disallowed_methods, reason = "a screen shows the time that passes for who looks at it")]

use std::cell::RefCell;
use std::io::{self, Write};
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Stylize};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Block, Paragraph, Wrap};
use ratatui::{DefaultTerminal, Frame};
use tokio::time::Instant;

use super::DemoError;
use super::panels::{BANK, Panels, Shown};

/// Where the panels are shown.
pub(super) struct Screen {
    /// `None`: plain lines.
    terminal: Option<RefCell<DefaultTerminal>>,
    began: Instant,
}

impl Screen {
    pub(super) fn open(is_terminal: bool) -> Result<Self, DemoError> {
        let terminal = match is_terminal {
            true => Some(RefCell::new(ratatui::try_init().map_err(failed)?)),
            false => None,
        };
        Ok(Self { terminal, began: Instant::now() })
    }

    /// Draws, again and again; ends when somebody presses `q` or Ctrl-C.
    pub(super) async fn draw(&self, panels: &Panels) -> Result<(), DemoError> {
        let mut before = (Instant::now(), 0);
        let mut rate = 0.0;
        loop {
            let pause = if self.terminal.is_some() { FRAME } else { PLAIN_EVERY };
            tokio::time::sleep(pause).await;
            let shown = panels.shown();
            let passed = before.0.elapsed();
            if passed >= RATE_OVER {
                #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
                let changes = shown.changes.saturating_sub(before.1) as f64;
                rate = changes / passed.as_secs_f64();
                before = (Instant::now(), shown.changes);
            }
            let Some(terminal) = &self.terminal else {
                self.write_line(&shown, rate)?;
                continue;
            };
            terminal.borrow_mut().draw(|frame| draw(frame, &shown, rate, self.began.elapsed())).map_err(failed)?;
            while event::poll(Duration::ZERO).map_err(failed)? {
                let Event::Key(key) = event::read().map_err(failed)? else { continue };
                let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
                if key.code == KeyCode::Char('q') || (is_control && key.code == KeyCode::Char('c')) {
                    panels.end();
                    return Ok(());
                }
            }
        }
    }

    /// Gives the terminal back, and leaves the last state on it.
    pub(super) fn close(self, panels: &Panels) -> Result<(), DemoError> {
        let began = self.began;
        let plain = Self { terminal: None, began };
        drop(self);
        plain.write_line(&panels.shown(), 0.0)
    }

    fn write_line(&self, shown: &Shown, rate: f64) -> Result<(), DemoError> {
        let sums: Vec<_> = shown.sums.iter().map(i128::to_string).collect();
        writeln!(
            io::stdout().lock(),
            "{:5.1} s  {} lines in | feed at lsn {}: {} changes ({rate:.0}/s), sums {}, agreed at {} of {} commits | \
             sums queried at lsn {}: {} | SELECT at lsn {}: {} rows",
            self.began.elapsed().as_secs_f64(),
            shown.lines,
            shown.feed_lsn,
            shown.changes,
            sums.join(" "),
            shown.commits_checked - shown.commits_disagreeing,
            shown.commits_checked,
            shown.query_lsn,
            shown.query_sums.join(" "),
            shown.rows_lsn,
            shown.rows,
        )
        .map_err(failed)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.terminal.is_some() {
            ratatui::restore();
        }
    }
}

fn draw(frame: &mut Frame<'_>, shown: &Shown, rate: f64, passed: Duration) {
    let [head, middle, foot] =
        Layout::vertical([Constraint::Length(3), Constraint::Length(8), Constraint::Min(4)]).areas(frame.area());
    let [sums, queries, rows] =
        Layout::horizontal([Constraint::Percentage(40), Constraint::Percentage(30), Constraint::Percentage(30)])
            .areas(middle);
    let state = if shown.is_ended { "the recording is in" } else { "ingesting" };
    let title = format!(
        "{state}: {} lines in {:.0} s, {rate:.0} changes a second through the feed, now at lsn {}; q ends it",
        shown.lines,
        passed.as_secs_f64(),
        shown.feed_lsn
    );
    frame.render_widget(Paragraph::new(title).block(Block::bordered().title(" highwater demo ".bold())), head);

    let agree = shown.commits_disagreeing == 0;
    let mut lines: Vec<Line<'_>> = BANK
        .iter()
        .zip(shown.sums)
        .map(|((table, column), sum)| Line::from(format!("sum({table}.{column}) = {sum}")))
        .collect();
    let checked =
        format!("agreed at {} of {} commits", shown.commits_checked - shown.commits_disagreeing, shown.commits_checked);
    lines.push(Line::from(checked).fg(if agree { Color::Green } else { Color::Red }));
    panel(frame, sums, &format!(" folded from the changefeed at lsn {} ", shown.feed_lsn), lines);

    let lines = shown
        .query_sums
        .iter()
        .map(|sum| Line::from(sum.as_str()))
        .chain([Line::from(format!("{} queries", shown.queries))]);
    panel(frame, queries, &format!(" sums by SQL at lsn {} ", shown.query_lsn), lines.collect());

    let lines = vec![Line::from(format!("{} rows", shown.rows)), Line::from(format!("{} whole scans", shown.scans))];
    panel(frame, rows, &format!(" streaming SELECT at lsn {} ", shown.rows_lsn), lines);

    let lines: Vec<_> = shown.last_changes.iter().rev().map(|line| Line::from(line.as_str())).collect();
    panel(frame, foot, &format!(" changes, at lsn {} ", shown.feed_lsn), lines);
}

fn panel(frame: &mut Frame<'_>, area: ratatui::layout::Rect, title: &str, lines: Vec<Line<'_>>) {
    let block = Block::bordered().title(title.to_owned());
    frame.render_widget(Paragraph::new(Text::from(lines)).wrap(Wrap { trim: true }).block(block), area);
}

fn failed(source: io::Error) -> DemoError {
    DemoError::Io { action: "draw on the terminal", source }
}

const FRAME: Duration = Duration::from_millis(100);
const PLAIN_EVERY: Duration = Duration::from_secs(1);
const RATE_OVER: Duration = Duration::from_millis(900);
