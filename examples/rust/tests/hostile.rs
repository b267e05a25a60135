//! Cut, flipped and edited files: an error or a model that answers, never a panic, and memory near the file's size.

use jslm_portable::Model;
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts what is allocated, and the most there was at once.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        MOST.fetch_max(NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size(), Ordering::Relaxed);
        System.alloc(layout)
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        System.dealloc(address, layout)
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn files() -> Vec<Vec<u8>> {
    let beside = option_env!("CARGO_MANIFEST_DIR").map(|here| Path::new(here).join("../../tests/vectors"));
    let folder = std::env::var_os("JSLM_VECTORS").map(PathBuf::from).or(beside).expect("JSLM_VECTORS names no folder");
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let models = paths.filter(|path| path.extension().map_or(false, |end| end == "safetensors"));
    models.map(|path| std::fs::read(path).unwrap()).collect()
}

/// Opens, and where that works writes a little; whether it opened.
fn open(bytes: &[u8]) -> bool {
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let opened = Model::open(bytes);
    let most = MOST.load(Ordering::Relaxed) - before;
    // JSON in memory is larger than its text: a value takes 32 bytes, and may be written in two.
    assert!(most < 40 * bytes.len() + 100_000, "{} bytes for a file of {}", most, bytes.len());
    match opened {
        Err(error) => {
            assert!(!error.0.is_empty() && !error.0.contains('\n') && error.0.len() < 700, "{:?}", error);
            false
        }
        Ok(model) => {
            let _ = model.rewrite("The letter was written by the clerk.", &[], None);
            if let Ok(writer) = model.write("The", &[], 4, 0.5, 1) {
                for token in writer {
                    if token.is_err() {
                        break;
                    }
                }
            }
            true
        }
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

// One test: the counts are those of the whole process.
#[test]
fn bad_files_are_errors() {
    let mut random = Random(0x1234_5678_9abc_def1);
    let (mut opened, mut refused) = (0, 0);
    let mut count = |found: bool| if found { opened += 1 } else { refused += 1 };
    for file in files() {
        assert!(open(&file));
        let header = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        for cut in (0..64).chain((0..200).map(|_| random.below(file.len()))) {
            assert!(!open(&file[..cut]), "a file cut to {} bytes", cut);
        }
        for round in 0..1500 {
            let mut changed = file.clone();
            for _ in 0..=random.below(3) {
                // Mostly the header, where sizes and offsets are.
                let at = random.below(if round % 4 > 0 { header + 8 } else { file.len() });
                changed[at] = if round % 3 == 0 { file[random.below(header) + 8] } else { random.below(256) as u8 };
            }
            count(open(&changed));
        }
        let text = String::from_utf8(file[8..8 + header].to_vec()).unwrap();
        for (name, by) in [
            ("d_model", "16777216"),
            ("d_model", "0"),
            ("n_layers", "16777216"),
            ("n_layers", "0"),
            ("n_layers", "1"),
            ("n_heads", "0"),
            ("n_heads", "7"),
            ("n_kv_heads", "5"),
            ("head_dim", "16777216"),
            ("head_dim", "3"),
            ("d_ff", "16777216"),
            ("context_length", "16777216"),
            ("context_length", "0"),
            ("context_length", "1"),
            ("vocab_size", "16777216"),
            ("vocab_size", "1e308"),
            ("vocab_size", "-1"),
            ("norm_eps", "NaN"),
            ("rope_theta", "0"),
            ("rope_theta", "-1"),
            ("factor", "0"),
            ("logit_softcap", "1e999"),
            ("norm_eps", "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["),
        ] {
            let start = match text.find(&format!("\\\"{}\\\": ", name)) {
                Some(start) => start + name.len() + 6,
                None => panic!("no {} in the header", name),
            };
            let end = start + text[start..].find([',', '}'].as_ref()).unwrap();
            let edited = [&text[..start], by, &text[end..]].concat();
            count(open(&[&(edited.len() as u64).to_le_bytes(), edited.as_bytes(), &file[8 + header..]].concat()));
        }
        for header in [u64::MAX, 1 << 63, 1 << 40, file.len() as u64, 100_000_001] {
            assert!(!open(&[&header.to_le_bytes(), &file[8..]].concat()));
        }
        let deep = "[".repeat(file.len());
        assert!(!open(&[&(deep.len() as u64).to_le_bytes(), deep.as_bytes()].concat()));
        let wide = format!("{{\"a\": [{}1]}}", "1,".repeat(100_000));
        assert!(!open(&[&(wide.len() as u64).to_le_bytes(), wide.as_bytes()].concat()));
    }
    assert!(opened > 100 && refused > 3000, "{} opened, {} refused", opened, refused);
}
