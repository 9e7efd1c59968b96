//! A page of `docs`, such as the runbook `operations.md`, as a script: a test follows one of its
//! sections, block by block, and what the page shows is what was said.
//!
//! * `text`: what somebody sees. The test has seen it.
//! * `console`: commands after `$`, run by a shell in the folder of the service, and what each of
//!   them said.
//! * `sql`: run by a plain client. Its first line says where; a `text` block right behind it is the
//!   answer.
//! * `<!-- now: … -->`: here the test does something, such as what the sentence before it asks for.
//!
//! What differs from run to run is not compared: a word with a digit in it, unless it is a small
//! number. `…` on the page stands for anything, alone on a line for any lines. With
//! `UNANIMOUS_RUNBOOK=write` in the environment, blocks that differ are written anew.

use std::fs;
use std::path::PathBuf;

use super::shop::Shop;

/// A section, and how far it was followed.
pub(super) struct Section {
    page: &'static str,
    heading: &'static str,
    steps: Vec<Step>,
    next: usize,
    /// The transaction that the page calls `GTRID`.
    gtrid: Option<String>,
    /// All that was shown so far.
    shown: String,
}

/// A block of code, or a mark.
#[derive(Debug, Clone)]
struct Step {
    kind: String,
    lines: Vec<String>,
}

const MARK: &str = "mark";

const RUNBOOK: &str = "operations.md";

fn path(page: &str) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.join("../docs").join(page)
}

fn is_written_anew() -> bool {
    std::env::var_os("UNANIMOUS_RUNBOOK").is_some_and(|value| value == "write")
}

impl Section {
    /// The runbook's section under this heading, up to the next one.
    pub(super) fn open(heading: &'static str) -> Self {
        Self::of(RUNBOOK, heading)
    }

    /// Another page's.
    pub(super) fn of(page: &'static str, heading: &'static str) -> Self {
        let text = fs::read_to_string(path(page)).unwrap();
        let (begin, end) = bounds(&text, heading);
        Self {
            page,
            heading,
            steps: steps(&text[begin..end]),
            next: 0,
            gtrid: None,
            shown: String::new(),
        }
    }

    /// Somebody saw this: the next block shows it.
    pub(super) fn sees(&mut self, shop: &Shop, text: &str) {
        let step = self.take();
        assert_eq!(step.kind, "text", "{}: {step:?}", self.heading);
        self.shown.push_str(text);
        let said: Vec<_> = shop.disguise(text).lines().map(str::to_owned).collect();
        self.compare(&step, &step.lines, &said);
    }

    /// From here on the page's `GTRID` is this one, which somebody who follows the page has seen.
    pub(super) fn choose(&mut self, gtrid: &str) {
        assert!(self.shown.contains(gtrid), "never shown: {}", self.shown);
        self.gtrid = Some(gtrid.to_owned());
    }

    /// The same of one that somebody has seen elsewhere.
    pub(super) fn takes(&mut self, gtrid: &str) {
        self.gtrid = Some(gtrid.to_owned());
    }

    /// Does what the page says up to this mark.
    pub(super) async fn until(&mut self, shop: &Shop, mark: &str) {
        loop {
            let step = self.take();
            match (&*step.kind, &step.lines[0]) {
                (MARK, found) if found == mark => return,
                (MARK | "text", _) => panic!("{}: before {mark:?}: {step:?}", self.heading),
                _ => self.carry_out(shop, &step).await,
            }
        }
    }

    /// Does all that is left.
    pub(super) async fn follow(mut self, shop: &Shop) {
        while self.next < self.steps.len() {
            let step = self.take();
            assert!(step.kind != MARK, "{}: {step:?}", self.heading);
            self.carry_out(shop, &step).await;
        }
        assert!(!self.shown.is_empty(), "{}: nothing was done", self.heading);
    }

    async fn carry_out(&mut self, shop: &Shop, step: &Step) {
        match &*step.kind {
            "console" => self.run(shop, step),
            "sql" => self.query(shop, step).await,
            kind => panic!("{}: what is {kind:?}?", self.heading),
        }
    }

    fn run(&mut self, shop: &Shop, step: &Step) {
        let (mut expected, mut said) = (Vec::new(), Vec::new());
        for (command, output) in commands(&step.lines) {
            let is_asked = output.iter().any(|line| line.ends_with("[y/N] y"));
            let ran = shop.shell(&self.fill_in(&command), is_asked || is_written_anew());
            self.shown.push_str(&ran.stdout);
            let shown = shop.disguise(&ran.stdout);
            for (lines, output) in [
                (&mut expected, output),
                (&mut said, shown.lines().map(str::to_owned).collect()),
            ] {
                lines.push(format!("$ {command}"));
                lines.extend(output);
            }
        }
        self.compare(step, &expected, &said);
    }

    async fn query(&mut self, shop: &Shop, step: &Step) {
        let place = step.lines[0].strip_prefix("-- ").expect("says where");
        let sql = self.fill_in(&step.lines[1..].join("\n"));
        let answer = shop.plain_client(place, &sql).await;
        let is_shown = self
            .steps
            .get(self.next)
            .is_some_and(|next| next.kind == "text");
        if is_shown {
            self.sees(shop, &answer);
        }
    }

    fn take(&mut self) -> Step {
        let step = self.steps.get(self.next).cloned();
        self.next += 1;
        step.unwrap_or_else(|| panic!("{}: nothing is left", self.heading))
    }

    /// The placeholder `GTRID`: what the test has chosen, or the only one that was shown.
    fn fill_in(&self, text: &str) -> String {
        if !text.contains("GTRID") {
            return text.to_owned();
        }
        let gtrid = self.gtrid.clone().unwrap_or_else(|| {
            let mut all = gtrids(&self.shown);
            assert_eq!(all.len(), 1, "which one? {}", self.shown);
            all.remove(0)
        });
        text.replace("GTRID", &gtrid)
    }

    /// Puts these lines in the place of the block's.
    fn write(&self, step: &Step, lines: &[String]) {
        let path = path(self.page);
        let text = fs::read_to_string(&path).unwrap();
        let (begin, end) = bounds(&text, self.heading);
        let old = format!("```{}\n{}\n```\n", step.kind, step.lines.join("\n"));
        let new = format!("```{}\n{}\n```\n", step.kind, lines.join("\n"));
        let section = &text[begin..end];
        assert!(section.contains(&old), "{old}");
        let section = section.replacen(&old, &new, 1);
        fs::write(path, [&text[..begin], &section, &text[end..]].concat()).unwrap();
    }

    fn compare(&self, step: &Step, expected: &[String], said: &[String]) {
        if matches(expected, said) {
            return;
        }
        if is_written_anew() {
            return self.write(step, said);
        }
        panic!(
            "{}: the page shows\n{}\nand this was said:\n{}\n",
            self.heading,
            expected.join("\n"),
            said.join("\n")
        );
    }
}

/// Where the text below this heading begins and ends.
fn bounds(text: &str, heading: &str) -> (usize, usize) {
    let below = ["## ", "### "].iter().find_map(|level| {
        let line = format!("\n{level}{heading}\n");
        Some(text.find(&line)? + line.len())
    });
    let begin = below.unwrap_or_else(|| panic!("no heading {heading:?}"));
    let next = ["\n## ", "\n### "]
        .iter()
        .filter_map(|next| text[begin..].find(next));
    (begin, next.min().map_or(text.len(), |at| begin + at))
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut open: Option<Step> = None;
    for line in text.lines() {
        let mark = line
            .strip_prefix("<!-- now: ")
            .and_then(|rest| rest.strip_suffix(" -->"));
        match (line.strip_prefix("```"), mark, &mut open) {
            (Some(_), _, Some(_)) => steps.extend(open.take()),
            (None, _, Some(step)) => step.lines.push(line.to_owned()),
            (Some(kind), _, None) => {
                let (kind, lines) = (kind.to_owned(), Vec::new());
                open = Some(Step { kind, lines });
            }
            (None, Some(mark), None) => {
                let (kind, lines) = (MARK.to_owned(), vec![mark.to_owned()]);
                steps.push(Step { kind, lines });
            }
            (None, None, None) => {}
        }
    }
    steps
}

/// Each command of a `console` block, and what stands below it.
fn commands(lines: &[String]) -> Vec<(String, Vec<String>)> {
    let mut commands: Vec<(String, Vec<String>)> = Vec::new();
    for line in lines {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push((command.to_owned(), Vec::new())),
            (None, Some((_, output))) => output.push(line.clone()),
            (None, None) => panic!("the first line is a command: {line}"),
        }
    }
    commands
}

/// Whether the lines say the same but for what differs from run to run.
fn matches(page: &[String], said: &[String]) -> bool {
    match page.split_first() {
        None => said.is_empty(),
        Some((line, rest)) if line == "…" => {
            (0..=said.len()).any(|count| matches(rest, &said[count..]))
        }
        Some((line, rest)) => said
            .split_first()
            .is_some_and(|(first, left)| line_matches(line, first) && matches(rest, left)),
    }
}

fn line_matches(page: &str, said: &str) -> bool {
    let said = lasting(said);
    let Some((begin, rest)) = page.split_once('…') else {
        return lasting(page) == said;
    };
    let (begin, said) = (lasting(begin), said.trim());
    let Some(mut left) = said.strip_prefix(begin.trim()) else {
        return false;
    };
    let parts: Vec<_> = rest.split('…').map(lasting).collect();
    for part in &parts[..parts.len() - 1] {
        let Some((_, behind)) = left.split_once(part.trim()) else {
            return false;
        };
        left = behind;
    }
    left.ends_with(parts[parts.len() - 1].trim())
}

/// What is the same in each run: words, and small numbers.
fn lasting(line: &str) -> String {
    let mut words = Vec::new();
    for word in line.split_whitespace() {
        let word = lasting_word(word);
        // An age may be of one word or two.
        if word != "#" || words.last().is_none_or(|last| last != "#") {
            words.push(word);
        }
    }
    words.join(" ")
}

/// As `2026-11-23T15:02:36Z`.
fn is_time(word: &str) -> bool {
    let shape = word.replace(|c: char| c.is_ascii_digit(), "0");
    shape == "0000-00-00T00:00:00Z"
}

fn lasting_word(word: &str) -> String {
    let bare = word.trim_end_matches([':', ',', ';']);
    if is_time(bare) {
        return format!("#{}", &word[bare.len()..]);
    }
    let mut lasting = String::new();
    let mut rest = word;
    while !rest.is_empty() {
        let is_part = |c: char| c.is_alphanumeric() || "-_.".contains(c);
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let (part, behind) = rest.split_at(end);
        let is_small = part.len() <= 2 && part.parse::<u8>().is_ok();
        let has_digit = part.contains(|c: char| c.is_ascii_digit());
        // A manager's id has sixteen characters, of which each may be a letter.
        let is_id = part.len() == 16 && !part.contains(['i', 'l', 'o', 'u', '-', '_', '.']);
        if (has_digit && !is_small) || is_id {
            lasting.push('#');
        } else {
            lasting.push_str(part);
        }
        let separator = behind.chars().next();
        lasting.extend(separator);
        rest = &behind[separator.map_or(0, char::len_utf8)..];
    }
    lasting
}

/// Each name of a global transaction in this text, once, in the order of their coming.
fn gtrids(text: &str) -> Vec<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let mut found: Vec<String> = Vec::new();
    for word in text.split(|c| !is_part(c)) {
        let is_gtrid = word.parse::<unanimous::Gtrid>().is_ok();
        if is_gtrid && !found.iter().any(|known| known == word) {
            found.push(word.to_owned());
        }
    }
    found
}

#[test]
fn a_page_that_says_something_else_is_told_from_one_that_does_not() {
    let said = |page: &str, said: &str| {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        matches(&lines(page), &lines(said))
    };
    assert!(said("ledger  decided  5s", "ledger decided   1m 7s"));
    assert!(said(
        "identity pg:77:00000001:5",
        "identity pg:77:00000002:5"
    ));
    assert!(said(
        "2 in doubt; manager k19vvc3g4pqywgza",
        "2 in doubt; manager ryb6tzp8tesgq76m"
    ));
    assert!(said(
        "commit, 2026-11-23T15:02:36Z: closed",
        "commit, 2027-01-01T00:00:00Z: closed"
    ));
    assert!(said("a\n…\nb", "a\nx\ny\nb"));
    assert!(said(
        "error: …: no space",
        "error: log /srv/shop/log: no space"
    ));
    for (page, other) in [
        ("ledger decided 5s", "ledger orphaned 5s"),
        ("2 in doubt", "0 in doubt"),
        ("a\n…\nb", "a\nx\ny"),
        ("a", "a\nb"),
        ("a\nb", "a"),
        (
            "error: …: no space",
            "error: log /srv/shop/log: it is damaged",
        ),
        ("$ unanimous list", "$ unanimous recover"),
    ] {
        assert!(!said(page, other), "{page} {other}");
    }
}
