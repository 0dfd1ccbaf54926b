//! Server-sent events, cut out of the pieces in which they arrive.

/// Collects bytes and gives the data of every event that is whole.
#[derive(Debug, Default)]
pub(crate) struct EventReader {
    buffer: Vec<u8>,
}

impl EventReader {
    /// Takes in `piece` and gives the data of the events that it completes.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Vec<Vec<u8>> {
        let mut scanned = self.buffer.len().saturating_sub(1);
        self.buffer.extend_from_slice(piece);
        let mut events = Vec::new();
        let mut start = 0;
        while let Some(offset) = find_blank_line(&self.buffer[scanned..]) {
            let end = scanned + offset;
            events.extend(data_of(&self.buffer[start..end]));
            start = end + 2;
            scanned = start;
        }
        self.buffer.drain(..start);
        events
    }
}

/// Where two line ends follow each other; servers of models write plain line feeds.
fn find_blank_line(bytes: &[u8]) -> Option<usize> {
    bytes.windows(2).position(|pair| pair == b"\n\n")
}

/// The data of an event; comments have none.
fn data_of(event: &[u8]) -> Option<Vec<u8>> {
    let lines = event.split(|byte| *byte == b'\n');
    let data: Vec<&[u8]> = lines
        .filter_map(|line| line.strip_prefix(b"data:"))
        .map(|data| data.strip_prefix(b" ").unwrap_or(data))
        .collect();
    (!data.is_empty()).then(|| data.join(&b'\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] =
        b"data: {\"a\": 1}\n\n: comment\n\nevent: x\ndata:two\ndata: lines\n\ndata: [DONE]\n\n";

    #[test]
    fn events_come_out_however_the_stream_is_cut() {
        for size in 1..STREAM.len() {
            let mut reader = EventReader::default();
            let pieces = STREAM.chunks(size);
            let events: Vec<_> = pieces.flat_map(|piece| reader.push(piece)).collect();
            let expected: [&[u8]; 3] = [b"{\"a\": 1}", b"two\nlines", b"[DONE]"];
            assert_eq!(events, expected, "pieces of {size}");
        }
    }

    #[test]
    fn half_an_event_waits() {
        let mut reader = EventReader::default();
        assert!(reader.push(b"data: a\n").is_empty());
        assert_eq!(reader.push(b"\ndata: b"), [b"a"]);
    }
}
