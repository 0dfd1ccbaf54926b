//! Files that lie about themselves, and damaged copies of sound ones: refused or read, never followed.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod entry;

use std::path::{Path, PathBuf};

type Entry = fn(&[u8]) -> Result<(), String>;

fn files(folder: &str, keeps: impl Fn(&str) -> bool) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| keeps(path.to_str().unwrap()))
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

#[track_caller]
fn refuses_all(folder: &str, entry: Entry) {
    let files = files(folder, |_| true);
    assert!(files.len() >= 20, "{folder} holds {} files", files.len());
    for (path, bytes) in files {
        let name = path.display();
        let message = entry(&bytes).err();
        let message = message.unwrap_or_else(|| panic!("{name} is read"));
        // A sentence, not the insides of a parser.
        assert!(message.len() < 500, "{name}: {message}");
        assert!(
            message.contains(' ') && !message.contains("unwrap"),
            "{name}: {message}"
        );
    }
}

#[test]
fn files_that_lie_about_themselves_are_refused() {
    refuses_all("../../fuzz/regressions/gguf", entry::gguf);
    refuses_all("../../fuzz/regressions/safetensors", entry::safetensors);
}

/// A generator with a fixed beginning (xorshift; Marsaglia 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }
}

/// Numbers at which arithmetic goes wrong.
const EXTREMES: [u64; 9] = [
    0,
    1,
    0x7f,
    0xffff,
    1 << 31,
    u32::MAX as u64,
    1 << 62,
    u64::MAX - 7,
    u64::MAX,
];

/// Headers are where lies do harm.
const HEADER: usize = 2048;

/// A copy with a few kinds of damage, mostly to the header.
fn damaged(file: &[u8], others: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut file = file.to_vec();
    for _ in 0..=random.below(4) {
        if file.len() < 16 {
            break;
        }
        let reach = file.len().min(if random.below(4) > 0 {
            HEADER
        } else {
            usize::MAX
        });
        let at = random.below(reach - 8);
        match random.below(7) {
            0 => file[at] = random.below(256) as u8,
            1 => file[at] ^= 1 << random.below(8),
            2 => {
                let extreme = EXTREMES[random.below(EXTREMES.len())];
                file[at..at + 8].copy_from_slice(&extreme.to_le_bytes());
            }
            3 => {
                let extreme = EXTREMES[random.below(EXTREMES.len())] as u32;
                file[at..at + 4].copy_from_slice(&extreme.to_le_bytes());
            }
            4 => file.truncate(at),
            5 => {
                let end = (at + random.below(64)).min(file.len());
                let repeated = file[at..end].to_vec();
                file.splice(at..at, repeated);
            }
            _ => {
                let other = &others[random.below(others.len())];
                let from = random.below(other.len());
                let length = random
                    .below(64)
                    .min(other.len() - from)
                    .min(file.len() - at);
                file[at..at + length].copy_from_slice(&other[from..from + length]);
            }
        }
    }
    file
}

fn survives_damage(sound: Vec<(PathBuf, Vec<u8>)>, copies: usize, entry: Entry) {
    let sound: Vec<Vec<u8>> = sound.into_iter().map(|(_, bytes)| bytes).collect();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for file in &sound {
        for _ in 0..copies {
            let _ = entry(&damaged(file, &sound, &mut random));
        }
    }
}

#[test]
fn damaged_gguf_files_are_refused_or_read() {
    let mut sound = files("tests/gguf", |name| {
        ["llama.gguf", "qwen3-moe.gguf", "gemma3.gguf"]
            .iter()
            .any(|wanted| name.ends_with(wanted))
    });
    sound.extend(files("../vllm-gguf/tests/fixtures", |name| {
        name.ends_with(".gguf")
    }));
    sound.extend(files("../../fuzz/regressions/gguf", |_| true));
    survives_damage(sound, 60, entry::gguf);
}

#[test]
fn damaged_safetensors_files_are_refused_or_read() {
    let mut sound = files("tests/quantized", |name| name.ends_with(".safetensors"));
    sound.extend(files("../../fuzz/regressions/safetensors", |_| true));
    survives_damage(sound, 60, entry::safetensors);
}
