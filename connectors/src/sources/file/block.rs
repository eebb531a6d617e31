//! The input in blocks: whole lines, as many as have arrived, decoded on a thread of its own while those before them are applied.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::mpsc;

use self_cell::self_cell;

use crate::decode::debezium::{DecodeError, Decoder, Event};

/// Lines, and what each of them says.
pub(super) struct Block {
    /// The number of its first line, from 1.
    first: u64,
    lines: Decoded,
}

/// What lines say; nothing in place of an empty one.
type Events<'a> = Vec<Option<Result<Event<'a>, DecodeError>>>;

self_cell! {
    struct Decoded {
        owner: String,
        #[covariant]
        dependent: Events,
    }
}

/// A line of a block, which it holds.
#[derive(Clone)]
pub(super) struct Line {
    block: Arc<Block>,
    place: usize,
}

impl Line {
    /// All lines of a block, in order.
    pub(super) fn all(block: &Arc<Block>) -> impl Iterator<Item = Self> + use<> {
        let block = Arc::clone(block);
        (0..block.lines.borrow_dependent().len()).map(move |place| Self { block: Arc::clone(&block), place })
    }

    /// Its number, from 1.
    pub(super) fn number(&self) -> u64 {
        self.block.first + self.place as u64
    }

    /// Its bytes, as an average over its block, which is what is held.
    pub(super) fn byte_len(&self) -> usize {
        self.block.lines.borrow_owner().len().div_ceil(self.block.lines.borrow_dependent().len().max(1))
    }

    /// What it says; `None`: it is empty.
    pub(super) fn event(&self) -> Option<&Result<Event<'_>, DecodeError>> {
        self.block.lines.borrow_dependent()[self.place].as_ref()
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
        let (first, decoder) = (self.lines + 1, &mut self.decoder);
        let lines = Decoded::new(text, |text| text.lines().map(|line| decode(decoder, line)).collect());
        self.lines += lines.borrow_dependent().len() as u64;
        Ok(Some(Block { first, lines }))
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

fn decode<'a>(decoder: &mut Decoder, line: &'a str) -> Option<Result<Event<'a>, DecodeError>> {
    (!line.trim_ascii().is_empty()).then(|| decoder.decode(line))
}

/// Reads and decodes on a thread of its own, a few blocks ahead. The thread ends with the input, or when the receiver is dropped and
/// the input gives its next lines.
pub(super) fn read_ahead(input: Box<dyn BufRead + Send>) -> io::Result<mpsc::Receiver<io::Result<Block>>> {
    let (sender, receiver) = mpsc::sync_channel(BLOCKS_AHEAD);
    let mut reader = BlockReader::new(input);
    let read = move || {
        while let Some(block) = reader.next_block().transpose() {
            let is_over = block.is_err();
            if sender.send(block).is_err() || is_over {
                return;
            }
        }
    };
    std::thread::Builder::new().name("highwater-decode".to_owned()).spawn(read)?;
    Ok(receiver)
}

/// Opens an input that is plain or zstd, told by its first bytes.
///
/// # Errors
/// When the first bytes cannot be read.
pub fn open_lines(input: impl Read + Send + 'static) -> io::Result<Box<dyn BufRead + Send>> {
    let mut input = BufReader::with_capacity(BLOCK_BYTES, input);
    let is_zstd = loop {
        match input.fill_buf() {
            Ok(bytes) => break bytes.starts_with(&ZSTD_MAGIC),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    };
    if !is_zstd {
        return Ok(Box::new(input));
    }
    Ok(Box::new(BufReader::with_capacity(BLOCK_BYTES, zstd::stream::read::Decoder::with_buffer(input)?)))
}

/// Longer lines are refused.
pub const LINE_BYTES_MAX: u64 = 256 * 1024 * 1024;
const BLOCK_BYTES: usize = 256 * 1024;
const BLOCKS_AHEAD: usize = 16;
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
            let piece = self.0.remove(0);
            buffer[..piece.len()].copy_from_slice(piece);
            Ok(piece.len())
        }
    }

    fn blocks(pieces: Vec<&'static [u8]>) -> Vec<Result<(u64, usize), String>> {
        let mut reader = BlockReader::new(Box::new(BufReader::new(Pieces(pieces))));
        let mut found = Vec::new();
        loop {
            match reader.next_block() {
                Ok(None) => return found,
                Ok(Some(block)) => found.push(Ok((block.first, block.lines.borrow_dependent().len()))),
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
    fn what_stands_before_a_line_that_is_no_text_is_taken() {
        let found = blocks(vec![b"{}\n{}\n\xff\n{}\n"]);
        assert_eq!(found[0], Ok((1, 2)));
        assert!(found[1].as_ref().unwrap_err().contains("utf-8"), "{found:?}");
        let found = blocks(vec![b"\xff\n{}\n"]);
        assert!(matches!(&found[..], [Err(_)]), "{found:?}");
    }
}
