//! Rust sources as the rules see them: words with their lines, comments and strings out of the way, tests told apart.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

/// The repository's text.
pub(crate) struct Tree {
    /// Every Rust file.
    pub(crate) sources: Vec<Source>,
    /// Every text file, Rust included: name and text.
    pub(crate) texts: Vec<(String, String)>,
}

/// A Rust file. Line numbers are the same in all three forms.
pub(crate) struct Source {
    /// Relative to the repository.
    pub(crate) file: String,
    /// As it is.
    pub(crate) text: String,
    /// Without comments and `#[cfg(test)]` items, strings kept.
    pub(crate) shipped: String,
    /// Words and signs of everything but comments and strings.
    pub(crate) tokens: Vec<Token>,
    /// Token ranges that only tests compile.
    test_ranges: Vec<(usize, usize)>,
    /// The whole file is only compiled for tests.
    pub(crate) is_test: bool,
}

/// A word or a sign.
#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

impl Tree {
    /// Read once for all rules.
    pub(crate) fn read() -> &'static Self {
        static TREE: LazyLock<Tree> = LazyLock::new(Tree::from_disk);
        &TREE
    }

    fn from_disk() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut texts = Vec::new();
        walk(root, root, &mut texts);
        texts.sort();
        let is_rust = |file: &str| Path::new(file).extension().is_some_and(|extension| extension == "rs");
        let mut sources: Vec<Source> =
            texts.iter().filter(|(file, _)| is_rust(file)).map(|(file, text)| Source::new(file.clone(), text.clone())).collect();
        let test_modules: BTreeSet<String> = sources.iter().flat_map(Source::test_modules).collect();
        for source in &mut sources {
            let stem = source.file.trim_end_matches(".rs").trim_end_matches("/mod");
            source.is_test = stem.starts_with("tests/")
                || stem.contains("/tests/")
                || test_modules.iter().any(|module| stem == module || stem.starts_with(&format!("{module}/")));
        }
        Self { sources, texts }
    }

    /// What ends up in the program and in the simulator.
    pub(crate) fn shipped(&self) -> impl Iterator<Item = &Source> {
        self.sources.iter().filter(|source| !source.is_test)
    }
}

/// All text below `folder`, but for what builds leave behind and what version control keeps.
fn walk(root: &Path, folder: &Path, texts: &mut Vec<(String, String)>) {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    for path in entries {
        if path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            let name = path.file_name().unwrap_or_default();
            if name != ".git" && name != "target" && name != "node_modules" && !path.join("CACHEDIR.TAG").exists() {
                walk(root, &path, texts);
            }
        } else if let Ok(text) = fs::read_to_string(&path) {
            texts.push((relative(root, &path), text));
        }
    }
}

fn relative(root: &Path, path: &Path) -> String {
    let relative: PathBuf = path.strip_prefix(root).unwrap().components().collect();
    relative.to_str().unwrap().to_owned()
}

impl Source {
    pub(crate) fn new(file: String, text: String) -> Self {
        let commentless = blank(&text, false);
        let tokens = tokens(&blank(&text, true));
        let test_ranges = test_ranges(&tokens);
        let mut lines: Vec<String> = commentless.lines().map(str::to_owned).collect();
        for &(from, to) in &test_ranges {
            for line in &mut lines[tokens[from].line - 1..tokens[to].line] {
                line.clear();
            }
        }
        Self { file, text, shipped: lines.join("\n"), tokens, test_ranges, is_test: false }
    }

    /// Whether only tests compile the token at `index`.
    pub(crate) fn is_test_token(&self, index: usize) -> bool {
        self.is_test || self.test_ranges.iter().any(|&(from, to)| (from..=to).contains(&index))
    }

    /// Lines that are not in `#[cfg(test)]` items.
    pub(crate) fn shipped_lines(&self) -> usize {
        let tests: usize = self.test_ranges.iter().map(|&(from, to)| self.tokens[to].line - self.tokens[from].line + 1).sum();
        self.text.lines().count() - tests
    }

    /// The module that this file is, as names from the crate's root; the root itself is empty.
    pub(crate) fn module(&self) -> Vec<&str> {
        let path = self.file.split_once("src/").map_or(self.file.as_str(), |(_, path)| path).trim_end_matches(".rs");
        path.split('/').filter(|name| !["mod", "lib", "main"].contains(name)).collect()
    }

    /// The token at `index` and those after it, as text.
    pub(crate) fn words_at(&self, index: usize) -> impl Iterator<Item = &str> {
        self.tokens[index..].iter().map(|token| token.text.as_str())
    }

    /// Whether `words` stand at `index`.
    pub(crate) fn stands(&self, index: usize, words: &[&str]) -> bool {
        self.words_at(index).take(words.len()).eq(words.iter().copied())
    }

    /// Where `mod name;` under `#[cfg(test)]` puts its files, without `.rs`.
    fn test_modules(&self) -> Vec<String> {
        let stem = self.file.trim_end_matches(".rs");
        let folder = ["/mod", "/lib", "/main"].iter().find_map(|end| stem.strip_suffix(end)).unwrap_or(stem);
        let declared = self.test_ranges.iter().filter_map(|&(from, to)| {
            let words: Vec<&str> = self.tokens[from..=to].iter().map(|token| token.text.as_str()).collect();
            let at = words.iter().position(|word| *word == "mod")?;
            (words.get(at + 2) == Some(&";")).then(|| format!("{folder}/{}", words[at + 1]))
        });
        declared.collect()
    }
}

/// The text with comments, and strings if wanted, replaced by spaces.
fn blank(text: &str, strings: bool) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = if let Some(end) = comment_end(&chars, at) {
            push_blank(&mut out, &chars[at..end]);
            at = end;
            continue;
        } else {
            string_end(&chars, at)
        };
        match end {
            Some(end) if strings => push_blank(&mut out, &chars[at..end]),
            Some(end) => out.extend(&chars[at..end]),
            None => out.push(chars[at]),
        }
        at = end.unwrap_or(at + 1);
    }
    out
}

fn push_blank(out: &mut String, chars: &[char]) {
    out.extend(chars.iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
}

/// Where the comment that starts at `at` ends.
fn comment_end(chars: &[char], at: usize) -> Option<usize> {
    match (chars[at], chars.get(at + 1)?) {
        ('/', '/') => Some((at..chars.len()).find(|&i| chars[i] == '\n').unwrap_or(chars.len())),
        ('/', '*') => {
            let (mut depth, mut i) = (0, at);
            while i + 1 < chars.len() {
                match (chars[i], chars[i + 1]) {
                    ('/', '*') => (depth, i) = (depth + 1, i + 2),
                    ('*', '/') => (depth, i) = (depth - 1, i + 2),
                    _ => i += 1,
                }
                if depth == 0 {
                    return Some(i);
                }
            }
            Some(chars.len())
        }
        _ => None,
    }
}

/// Where the string or character that starts at `at` ends. A lifetime is none.
fn string_end(chars: &[char], at: usize) -> Option<usize> {
    match chars[at] {
        '"' => Some(quoted_end(chars, at + 1, '"')),
        'r' if at == 0 || !is_word(chars[at - 1]) || chars[at - 1] == 'b' => {
            let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
            let open = at + 1 + hashes;
            if chars.get(open) != Some(&'"') {
                return None;
            }
            let closes =
                |i: usize| chars[i] == '"' && chars[i + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
            Some((open + 1..chars.len()).find(|&i| closes(i)).map_or(chars.len(), |i| i + 1 + hashes))
        }
        '\'' if chars.get(at + 1) == Some(&'\\') || chars.get(at + 2) == Some(&'\'') => Some(quoted_end(chars, at + 1, '\'')),
        _ => None,
    }
}

fn quoted_end(chars: &[char], from: usize, quote: char) -> usize {
    let mut i = from;
    while i < chars.len() && chars[i] != quote {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(chars.len())
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut rest = line;
        while let Some(first) = rest.chars().next() {
            let length = match first {
                c if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
                ':' if rest.starts_with("::") => 2,
                c => c.len_utf8(),
            };
            if !first.is_whitespace() {
                tokens.push(Token { text: rest[..length].to_owned(), line: number + 1 });
            }
            rest = &rest[length..];
        }
    }
    tokens
}

/// From each `#[cfg(test)]` to the end of its item.
fn test_ranges(tokens: &[Token]) -> Vec<(usize, usize)> {
    let is_test = |at: usize| ["#", "[", "cfg", "(", "test", ")", "]"].iter().zip(&tokens[at..]).all(|(a, b)| *a == b.text);
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for at in 0..tokens.len().saturating_sub(7) {
        if is_test(at) && ranges.last().is_none_or(|&(_, end)| at > end) {
            ranges.push((at, item_end(tokens, at + 7)));
        }
    }
    ranges
}

/// The last token of the item that starts at `at`: its `;`, or the end of its braces.
pub(crate) fn item_end(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" => depth = depth.saturating_sub(1),
            "}" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return index;
                }
            }
            ";" if depth == 0 => return index,
            _ => {}
        }
    }
    tokens.len() - 1
}

#[test]
fn comments_and_strings_are_no_words_and_lifetimes_are_no_strings() {
    let text = "fn a<'a>(x: &'a str) { /* fn b { /* nested */ */ let s = \"fn c \\\" {\"; let r = r#\"fn d \"{\"#; '{'; b'\\''; } // fn e";
    let source = Source::new("src/x.rs".to_owned(), text.to_owned());
    let functions = source.tokens.iter().filter(|token| token.text == "fn").count();
    assert_eq!(functions, 1, "{:?}", source.tokens);
    assert_eq!(item_end(&source.tokens, 0), source.tokens.len() - 1);
}

#[test]
fn what_only_tests_compile_is_told_apart() {
    let text = "mod a;\n#[cfg(test)]\nmod fixture;\nfn b() {}\n#[cfg(test)]\nmod tests {\n    fn c() {}\n}\nfn d() {}\n";
    let source = Source::new("src/x/mod.rs".to_owned(), text.to_owned());
    assert_eq!(source.test_modules(), ["src/x/fixture"]);
    assert_eq!(source.shipped_lines(), 3);
    assert!(source.shipped.contains("fn d") && !source.shipped.contains("fn c"));
    assert_eq!(source.module(), ["x"]);
}
