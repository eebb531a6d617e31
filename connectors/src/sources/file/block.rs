//! The input in blocks: whole lines, as many as have arrived, decoded on a thread of its own while those before them are applied.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};

use self_cell::self_cell;

use crate::decode::debezium::{Cells, Change, DecodeError, Decoder, Event};

/// Lines, and what each of them says.
pub(super) struct Block {
    /// The number of its first line, from 1, and how many there are.
    first: u64,
    count: u64,
    lines: Decoded,
    /// What it takes in memory, roughly.
    bytes: usize,
}

/// What lines say, each with its place in the block; empty lines, and those that say nothing new, are left out.
type Events<'a> = Vec<(u64, Result<Event<'a>, DecodeError>)>;

self_cell! {
    struct Decoded {
        owner: String,
        #[covariant]
        dependent: Events,
    }
}

impl Block {
    fn new(first: u64, text: String, decoder: &mut Decoder) -> Self {
        let mut count = 0;
        let mut bytes = text.capacity();
        let lines = Decoded::new(text, |text| {
            let mut events = Vec::new();
            let mut rest = text.as_str();
            while !rest.is_empty() {
                let end = memchr::memchr(b'\n', rest.as_bytes()).unwrap_or(rest.len());
                let line;
                (line, rest) = (&rest[..end], rest.get(end + 1..).unwrap_or_default());
                if !line.trim_ascii().is_empty() {
                    match decoder.decode(line) {
                        Ok(Event::Tombstone) => {}
                        event => events.push((count, event)),
                    }
                }
                count += 1;
            }
            bytes += events.iter().map(|(_, event)| byte_len(event)).sum::<usize>();
            events
        });
        Self { first, count, lines, bytes }
    }

    /// The number of its last line.
    pub(super) fn last(&self) -> u64 {
        self.first + self.count - 1
    }
}

/// What a decoded line takes beside its text.
fn byte_len(event: &Result<Event<'_>, DecodeError>) -> usize {
    let cells = |cells: &Option<Cells<'_>>| cells.as_ref().map_or(0, |cells| cells.capacity() * CELL_BYTES);
    let own = size_of_val(event) + size_of::<u64>();
    match event {
        Ok(Event::Change(change)) => own + size_of::<Change<'_>>() + cells(&change.key) + cells(&change.after),
        _ => own,
    }
}

/// A line of a block, which it holds.
#[derive(Clone)]
pub(super) struct Line {
    block: Arc<Block>,
    place: usize,
}

impl Line {
    /// All lines of a block that say something, in order.
    pub(super) fn all(block: &Arc<Block>) -> impl Iterator<Item = Self> + use<> {
        let block = Arc::clone(block);
        (0..block.lines.borrow_dependent().len()).map(move |place| Self { block: Arc::clone(&block), place })
    }

    fn entry(&self) -> &(u64, Result<Event<'_>, DecodeError>) {
        &self.block.lines.borrow_dependent()[self.place]
    }

    /// Its number, from 1.
    pub(super) fn number(&self) -> u64 {
        self.block.first + self.entry().0
    }

    /// What it says.
    pub(super) fn event(&self) -> &Result<Event<'_>, DecodeError> {
        &self.entry().1
    }

    /// Whether another line holds the same block.
    pub(super) fn is_beside(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.block, &other.block)
    }

    /// What the block takes in memory that it holds.
    pub(super) fn block_bytes(&self) -> usize {
        self.block.bytes
    }
}

/// Cuts an input into blocks, and decodes them.
pub(super) struct BlockReader {
    input: Box<dyn BufRead + Send>,
    decoder: Decoder,
    /// Lines handed out.
    lines: u64,
    /// The beginning of a line whose end was not read yet.
    rest: Vec<u8>,
    /// What was met behind the last block.
    failure: Option<io::Error>,
}

impl BlockReader {
    pub(super) fn new(input: Box<dyn BufRead + Send>) -> Self {
        Self { input, decoder: Decoder::default(), lines: 0, rest: Vec::new(), failure: None }
    }

    /// The next lines. It waits for one that is whole, and takes what has arrived with it; `None` at the end.
    ///
    /// # Errors
    /// When the input cannot be read, is no UTF-8, or holds a line longer than [`LINE_BYTES_MAX`]; behind the lines before it.
    pub(super) fn next_block(&mut self) -> io::Result<Option<Block>> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let bytes = match self.read_lines() {
            Ok(bytes) if bytes.is_empty() => return Ok(None),
            Ok(bytes) => bytes,
            Err(error) => return Err(error),
        };
        let text = String::from_utf8(bytes).or_else(|error| {
            // What stands before the line that is no text is taken.
            let (valid, cause) = (error.utf8_error().valid_up_to(), error.utf8_error());
            let mut bytes = error.into_bytes();
            bytes.truncate(bytes[..valid].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1));
            let failure = io::Error::new(io::ErrorKind::InvalidData, cause);
            if bytes.is_empty() {
                return Err(failure);
            }
            self.failure = Some(failure);
            String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
        })?;
        let block = Block::new(self.lines + 1, text, &mut self.decoder);
        self.lines += block.count;
        Ok(Some(block))
    }

    /// The bytes of the next lines; none at the end.
    fn read_lines(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = std::mem::take(&mut self.rest);
        loop {
            let arrived = match self.input.fill_buf() {
                Ok(arrived) => arrived,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            // The last line may have no end.
            let whole =
                if arrived.is_empty() { Some(0) } else { arrived.iter().rposition(|b| *b == b'\n').map(|at| at + 1) };
            let first = arrived.iter().position(|byte| *byte == b'\n').unwrap_or(arrived.len());
            if (bytes.len() + first) as u64 > LINE_BYTES_MAX {
                let message = format!("a line is longer than {LINE_BYTES_MAX} bytes");
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            let (taken, length) = (whole.unwrap_or(arrived.len()), arrived.len());
            bytes.extend_from_slice(&arrived[..taken]);
            self.rest.extend_from_slice(&arrived[taken..]);
            self.input.consume(length);
            if whole.is_some() {
                return Ok(bytes);
            }
        }
    }
}

/// Blocks that were read ahead, by a thread that ends with the input, or when this goes and the input gives its next lines.
pub(super) struct ReadAhead {
    blocks: mpsc::Receiver<io::Result<Option<Block>>>,
    held: Arc<Held>,
}

/// Bytes of blocks that were read ahead.
#[derive(Default)]
struct Held {
    bytes: Mutex<usize>,
    freed: Condvar,
}

impl Held {
    fn bytes(&self) -> MutexGuard<'_, usize> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is room; a block that is larger than all of it waits until there is nothing else.
    fn take(&self, bytes: usize) {
        let is_full = |held: &mut usize| *held > 0 && *held + bytes > AHEAD_BYTES_MAX;
        *self.freed.wait_while(self.bytes(), is_full).unwrap_or_else(PoisonError::into_inner) += bytes;
    }

    fn give(&self, bytes: usize) {
        let mut held = self.bytes();
        *held = held.saturating_sub(bytes);
        self.freed.notify_one();
    }
}

impl ReadAhead {
    /// The next block; `None` at the end of the input.
    ///
    /// # Errors
    /// As [`BlockReader::next_block`].
    pub(super) fn next(&self) -> io::Result<Option<Block>> {
        // A thread that is gone without a word has not seen the end.
        let block = self.blocks.recv().map_err(|_| io::Error::other("the thread that reads has ended"))??;
        if let Some(block) = &block {
            self.held.give(block.bytes);
        }
        Ok(block)
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        // Whoever waits for room finds nobody to hand it to.
        self.held.give(usize::MAX);
    }
}

/// Reads and decodes on a thread of its own, some blocks ahead.
pub(super) fn read_ahead(input: Box<dyn BufRead + Send>) -> io::Result<ReadAhead> {
    let (sender, blocks) = mpsc::sync_channel(BLOCKS_AHEAD);
    let held = Arc::new(Held::default());
    let (mut reader, room) = (BlockReader::new(input), Arc::clone(&held));
    let read = move || {
        loop {
            let block = reader.next_block();
            if let Ok(Some(block)) = &block {
                room.take(block.bytes);
            }
            let is_over = !matches!(block, Ok(Some(_)));
            if sender.send(block).is_err() || is_over {
                return;
            }
        }
    };
    std::thread::Builder::new().name("highwater-decode".to_owned()).spawn(read)?;
    Ok(ReadAhead { blocks, held })
}

/// Opens an input that is plain or zstd, told by its first bytes. Waits for them.
///
/// # Errors
/// When the first bytes cannot be read.
pub fn open_lines(mut input: impl Read + Send + 'static) -> io::Result<Box<dyn BufRead + Send>> {
    let mut head = Vec::with_capacity(ZSTD_MAGIC.len());
    // As long as they may be those of zstd.
    while head.len() < ZSTD_MAGIC.len() && ZSTD_MAGIC.starts_with(&head) {
        let mut byte = [0];
        match input.read(&mut byte) {
            Ok(0) => break,
            Ok(_) => head.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let is_zstd = head == ZSTD_MAGIC;
    let input = BufReader::with_capacity(BLOCK_BYTES, io::Cursor::new(head).chain(input));
    if !is_zstd {
        return Ok(Box::new(input));
    }
    Ok(Box::new(BufReader::with_capacity(BLOCK_BYTES, zstd::stream::read::Decoder::with_buffer(input)?)))
}

/// Longer lines are refused.
pub const LINE_BYTES_MAX: u64 = 64 * 1024 * 1024;
const BLOCK_BYTES: usize = 256 * 1024;
const BLOCKS_AHEAD: usize = 16;
const AHEAD_BYTES_MAX: usize = 32 * 1024 * 1024;
/// A name and a pointer to the value.
const CELL_BYTES: usize = 40;
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    /// Gives its pieces one by one, as a pipe does.
    struct Pieces(Vec<&'static [u8]>);

    impl Read for Pieces {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let piece = self.0[0];
            let count = piece.len().min(buffer.len());
            buffer[..count].copy_from_slice(&piece[..count]);
            self.0[0] = &piece[count..];
            if self.0[0].is_empty() {
                self.0.remove(0);
            }
            Ok(count)
        }
    }

    fn blocks(pieces: Vec<&'static [u8]>) -> Vec<Result<(u64, u64), String>> {
        let mut reader = BlockReader::new(Box::new(BufReader::new(Pieces(pieces))));
        let mut found = Vec::new();
        loop {
            match reader.next_block() {
                Ok(None) => return found,
                Ok(Some(block)) => found.push(Ok((block.first, block.count))),
                Err(error) => {
                    found.push(Err(error.to_string()));
                    return found;
                }
            }
        }
    }

    #[test]
    fn lines_are_taken_as_they_arrive() {
        assert_eq!(blocks(vec![b"{}\n{}\n", b"{}\n"]), [Ok((1, 2)), Ok((3, 1))]);
        assert_eq!(blocks(vec![b"{", b"}", b"\n{}\n{", b"}"]), [Ok((1, 2)), Ok((3, 1))]);
        assert_eq!(blocks(vec![b"\n\r\n{}\r\n"]), [Ok((1, 3))]);
        assert_eq!(blocks(vec![]), []);
    }

    #[test]
    fn zstd_is_told_by_its_first_bytes_however_they_arrive() {
        let packed: &'static [u8] = Box::leak(zstd::encode_all(&b"{}\n"[..], 0).unwrap().into_boxed_slice());
        for cut in 1..6 {
            let mut input = open_lines(Pieces(vec![&packed[..cut], &packed[cut..]])).unwrap();
            let mut text = String::new();
            input.read_to_string(&mut text).unwrap();
            assert_eq!(text, "{}\n");
        }
        for plain in [&b""[..], b"{", b"{}\n", &ZSTD_MAGIC[..3]] {
            let mut bytes = Vec::new();
            open_lines(Pieces(vec![plain])).unwrap().read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes, plain);
        }
    }

    #[test]
    fn what_stands_before_a_line_that_is_no_text_is_taken() {
        let found = blocks(vec![b"{}\n{}\n\xff\n{}\n"]);
        assert_eq!(found[0], Ok((1, 2)));
        assert!(found[1].as_ref().unwrap_err().contains("utf-8"), "{found:?}");
        let found = blocks(vec![b"\xff\n{}\n"]);
        assert!(matches!(&found[..], [Err(_)]), "{found:?}");
    }
}
