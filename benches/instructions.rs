//! How many instructions the small parts of the hot path take, counted by valgrind, so that a regression shows on a
//! noisy machine too: `cargo bench --bench instructions`, or some of the parts: `… -- execute`.
//!
//! Each part runs in a process of its own under callgrind, which counts a thousand turns and nothing of the set-up.
//! The figures are held against those in `benches/instructions.txt`; `BASELINE=FILE` names another file and
//! `SAVE=FILE` writes one. It fails when a part takes over 2 % more than under the same conditions (releases of rustc
//! and valgrind, link-time optimisation), and when what a command takes depends on how long its stream is. `KEEP=FOLDER`
//! keeps callgrind's profiles for `callgrind_annotate`. Wants Debian's package valgrind.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use self::parts::{PARTS, Turn};

mod parts;

const TURNS: u64 = 1_000;
/// Turns before those that are counted: what is made at first use is made.
const WARM_UP: u64 = 100;
/// Percent that a part may grow by. Two counts of one program differ by 0.3 at most: keys of hash tables are random.
const MAY_GROW: f64 = 2.0;
/// Percent that the length of a stream may make.
const MAY_DIFFER: f64 = 5.0;
/// What the names of those begin with that run a command; their streams differ in nothing but their length.
const EXECUTE: &str = "execute on a stream of ";
/// Names the part to the process that runs it.
const PART: &str = "--part=";
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.txt");

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(name) = arguments.iter().find_map(|argument| argument.strip_prefix(PART)) {
        run(name);
        return ExitCode::SUCCESS;
    }
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("measures only as a benchmark");
        return ExitCode::SUCCESS;
    }
    let Some(conditions) = conditions() else {
        println!("valgrind is not there (Debian: apt-get install valgrind); nothing counted");
        return ExitCode::SUCCESS;
    };
    let wanted: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    let names = PARTS.iter().map(|part| part.name).filter(|name| is_wanted(name));
    let figures = Figures { conditions, counts: names.map(|name| (name.to_owned(), count(name))).collect() };
    let before = std::env::var_os("BASELINE").map_or_else(|| PathBuf::from(FILE), PathBuf::from);
    let is_well = compare(&figures, &Figures::read(&before), &before) & streams_are_alike(&figures);
    if let Some(file) = std::env::var_os("SAVE") {
        figures.write(Path::new(&file));
    }
    if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What happens under callgrind: the part's turns.
fn run(name: &str) {
    let part = PARTS.iter().find(|part| part.name == name).expect("it is called with a part's name");
    let mut turn = (part.set_up)();
    take_turns(&mut turn, WARM_UP);
    counted_turns(&mut turn);
}

/// What callgrind counts: it knows the function by its name.
#[inline(never)]
fn counted_turns(turn: &mut Turn) {
    take_turns(turn, TURNS);
}

fn take_turns(turn: &mut Turn, turns: u64) {
    (0..turns).for_each(|_| turn());
}

/// Instructions of one turn of a part.
fn count(name: &str) -> f64 {
    let passing = tempfile::tempdir().expect("a folder");
    let folder = std::env::var_os("KEEP").map_or_else(|| passing.path().to_owned(), PathBuf::from);
    let file = folder.join(format!("callgrind.out.{}", name.replace([' ', ','], "-")));
    let mut callgrind = Command::new("valgrind");
    callgrind.args(["--quiet", "--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*counted_turns*"]);
    callgrind.arg(format!("--callgrind-out-file={}", file.display()));
    callgrind.arg(std::env::current_exe().expect("this program has a file")).arg(format!("{PART}{name}"));
    let status = callgrind.status().expect("valgrind was there a moment ago");
    assert!(status.success(), "{name}: {status}");
    let written = std::fs::read_to_string(&file).expect("callgrind wrote its counts");
    let total = written.lines().find_map(|line| line.strip_prefix("totals: ")).expect("it adds them up");
    let total: u64 = total.trim().parse().expect("a number of instructions");
    assert!(total > TURNS, "{name}: nothing was counted; has the program its symbols?");
    total as f64 / TURNS as f64
}

/// Counts, and what they depend on beside the program.
struct Figures {
    conditions: String,
    counts: BTreeMap<String, f64>,
}

impl Figures {
    /// None when there is no such file.
    fn read(file: &Path) -> Self {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let conditions = text.lines().find_map(|line| line.strip_prefix("conditions: ")).unwrap_or_default().to_owned();
        let counts = text.lines().filter_map(|line| line.split_once('\t'));
        let counts = counts.filter_map(|(count, name)| Some((name.to_owned(), count.trim().parse().ok()?)));
        Self { conditions, counts: counts.collect() }
    }

    fn write(&self, file: &Path) {
        let mut text =
            "Instructions of one turn, as `SAVE=FILE cargo bench --bench instructions` counted them.\n".to_owned();
        writeln!(text, "conditions: {}", self.conditions).expect("a string takes all");
        for part in PARTS.iter().filter_map(|part| self.counts.get_key_value(part.name)) {
            writeln!(text, "{:>9.0}\t{}", part.1, part.0).expect("a string takes all");
        }
        std::fs::write(file, text).expect("the file can be written");
    }
}

/// None without valgrind.
fn conditions() -> Option<String> {
    let release = |program: &str| {
        let output = Command::new(program).arg("--version").output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
    };
    let valgrind = release("valgrind")?;
    let rustc = release("rustc").unwrap_or_default();
    let lto = option_env!("CARGO_PROFILE_BENCH_LTO").unwrap_or("as the profile says");
    Some(format!("{rustc}, {valgrind}, LTO {lto}, {}", std::env::consts::ARCH))
}

/// Prints the counts beside those of before; false when one has grown too much.
fn compare(figures: &Figures, before: &Figures, file: &Path) -> bool {
    let is_alike = figures.conditions == before.conditions;
    println!("instructions of one turn, mean of {TURNS}; beside {}", file.file_name().unwrap_or_default().display());
    println!("counted with {}", figures.conditions);
    if !is_alike {
        println!("that was with {}: compare with care", before.conditions);
    }
    let mut is_well = true;
    for part in PARTS.iter().filter(|part| figures.counts.contains_key(part.name)) {
        let now = figures.counts[part.name];
        let Some(then) = before.counts.get(part.name) else {
            println!("  {:<32} {now:>9.0}", part.name);
            continue;
        };
        let moved = (now / then - 1.0) * 100.0;
        let too_far = is_alike && moved > MAY_GROW;
        let verdict = if too_far { format!("   MORE THAN {MAY_GROW} %") } else { String::new() };
        println!("  {:<32} {now:>9.0}   {then:>9.0} before   {moved:>+6.1} %{verdict}", part.name);
        is_well &= !too_far;
    }
    is_well
}

/// Whether a command takes as much whatever the length of its stream; true when they were not counted.
fn streams_are_alike(figures: &Figures) -> bool {
    let counts = figures.counts.iter().filter(|(name, _)| name.starts_with(EXECUTE)).map(|(_, count)| *count);
    let (least, most) = counts.fold((f64::MAX, 0.0_f64), |(least, most), count| (least.min(count), most.max(count)));
    if most == 0.0 {
        return true;
    }
    let apart = (most / least - 1.0) * 100.0;
    let is_alike = apart <= MAY_DIFFER;
    let verdict = if is_alike { "reached" } else { "MISSED" };
    println!("  {EXECUTE}any length: {apart:.1} % apart, wanted at most {MAY_DIFFER} %: {verdict}");
    is_alike
}
