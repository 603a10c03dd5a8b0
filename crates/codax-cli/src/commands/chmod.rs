//! `codax chmod` and `codax chown`.

use super::users::{self, Names, parse_owner};
use super::{Context, done, stat};
use crate::args::{ChmodArgs, ChownArgs, checked};
use crate::output::json::PathForm;
use anyhow::Result;
use codax_core::Error;
use codax_core::namespace::Kind;
use codax_wire::Request;
use serde::Serialize;

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    path: PathForm,
    /// Permission bits after the change; null if they were not asked for.
    mode: Option<u16>,
    uid: Option<u32>,
    gid: Option<u32>,
}

/// `codax chmod`.
pub fn chmod(context: &Context, args: &ChmodArgs) -> Result<()> {
    let change = ModeChange::parse(&args.mode, users::umask())?;
    let paths = checked::paths(&args.paths)?;
    let store = context.store()?;
    let mut rows = Vec::new();
    for path in paths {
        let mode = match change {
            ModeChange::Absolute(mode) => mode,
            ModeChange::Symbolic(_) => {
                let info = stat(&store, &path)?;
                change.apply(info.mode, info.kind)
            }
        };
        rows.push(Row { path: (&path).into(), mode: Some(mode), uid: None, gid: None });
        done(&store, Request::SetAttr { path, mode: Some(mode), uid: None, gid: None, placement: None })?;
    }
    context.print(rows, String::new)
}

/// `codax chown`.
pub fn chown(context: &Context, args: &ChownArgs) -> Result<()> {
    let (uid, gid) = parse_owner(&args.owner, &Names::users(), &Names::groups())?;
    let paths = checked::paths(&args.paths)?;
    let store = context.store()?;
    let mut rows = Vec::new();
    for path in paths {
        rows.push(Row { path: (&path).into(), mode: None, uid, gid });
        done(&store, Request::SetAttr { path, mode: None, uid, gid, placement: None })?;
    }
    context.print(rows, String::new)
}

/// What to do to permission bits.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ModeChange {
    /// Make them these.
    Absolute(u16),
    /// Do these in turn.
    Symbolic(Vec<Clause>),
}

/// `go-w`: an operator, with the bits it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Clause {
    /// The bits of those whom it is about.
    who: u16,
    op: char,
    /// The bits that are given or taken, for all three, before `who` cuts them.
    bits: u16,
    /// Whether execution is meant only where it makes sense: a directory, or a file that somebody may execute already.
    execute_if: bool,
    /// Bits that stay because no one was named and the umask has them.
    masked: u16,
}

impl ModeChange {
    /// Parses the word of chmod(1): up to four octal digits, or clauses such as `u+x,go-w`.
    fn parse(typed: &str, umask: u16) -> codax_core::Result<Self> {
        let bad =
            || Error::invalid(format!("mode {typed:?}: wants octal digits (644) or clauses (u+x,go-w)"));
        if typed.starts_with(|c: char| c.is_ascii_digit()) {
            let mode = u16::from_str_radix(typed, 8).map_err(|_| bad())?;
            return if mode <= 0o7777 { Ok(Self::Absolute(mode)) } else { Err(bad()) };
        }
        let mut clauses = Vec::new();
        for part in typed.split(',') {
            Self::parse_part(part, umask, &mut clauses).ok_or_else(bad)?;
        }
        Ok(Self::Symbolic(clauses))
    }

    /// One `[ugoa]*` with one or more `[-+=][rwxXst]*` behind it.
    fn parse_part(part: &str, umask: u16, clauses: &mut Vec<Clause>) -> Option<()> {
        let ops = part.find(['+', '-', '='])?;
        let (named, mut rest) = part.split_at(ops);
        let mut who = 0;
        for c in named.chars() {
            who |= match c {
                'u' => 0o4700,
                'g' => 0o2070,
                'o' => 0o1007,
                'a' => 0o7777,
                _ => return None,
            };
        }
        let masked = if named.is_empty() { umask & 0o777 } else { 0 };
        if named.is_empty() {
            who = 0o7777;
        }
        while let Some(op) = rest.chars().next() {
            let after = &rest[1..];
            let end = after.find(['+', '-', '=']).unwrap_or(after.len());
            let mut clause = Clause { who, op, bits: 0, execute_if: false, masked };
            for c in after[..end].chars() {
                match c {
                    'r' => clause.bits |= 0o444,
                    'w' => clause.bits |= 0o222,
                    'x' => clause.bits |= 0o111,
                    'X' => clause.execute_if = true,
                    's' => clause.bits |= 0o6000,
                    't' => clause.bits |= 0o1000,
                    _ => return None,
                }
            }
            clauses.push(clause);
            rest = &after[end..];
        }
        Some(())
    }

    fn apply(&self, mode: u16, kind: Kind) -> u16 {
        match self {
            Self::Absolute(mode) => *mode,
            Self::Symbolic(clauses) => clauses.iter().fold(mode, |mode, clause| clause.apply(mode, kind)),
        }
    }
}

impl Clause {
    fn apply(&self, mode: u16, kind: Kind) -> u16 {
        let execute = self.execute_if && (kind == Kind::Dir || mode & 0o111 != 0);
        let bits = (self.bits | if execute { 0o111 } else { 0 }) & self.who & !self.masked;
        match self.op {
            '+' => mode | bits,
            '-' => mode & !bits,
            // What belongs to nobody (set-id and sticky bits that were not named) stays on a directory, as with chmod(1).
            _ => (mode & !(self.who & if kind == Kind::Dir { 0o777 } else { 0o7777 })) | bits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(typed: &str, mode: u16, kind: Kind) -> u16 {
        ModeChange::parse(typed, 0o022).unwrap().apply(mode, kind)
    }

    #[test]
    fn octal_modes_replace_all_bits() {
        assert_eq!(apply("644", 0o7777, Kind::File), 0o644);
        assert_eq!(apply("0", 0o777, Kind::File), 0);
        assert_eq!(apply("1777", 0, Kind::Dir), 0o1777);
    }

    #[test]
    fn symbolic_modes_change_what_they_name() {
        for (typed, before, after) in [
            ("u+x", 0o644, 0o744),
            ("go-r", 0o644, 0o600),
            ("a=r", 0o4755, 0o444),
            ("u=rwx,go=rx", 0o000, 0o755),
            ("g+w-r", 0o640, 0o620),
            ("-x", 0o755, 0o644),
            ("+w", 0o444, 0o644), // the umask keeps the others' bits as they are
            ("u+s", 0o755, 0o4755),
            ("ug+s", 0o755, 0o6755),
            ("+t", 0o755, 0o1755),
            ("a+X", 0o644, 0o644),
            ("a+X", 0o744, 0o755),
            ("u=", 0o755, 0o055),
        ] {
            assert_eq!(apply(typed, before, Kind::File), after, "{typed} on {before:o}");
        }
        assert_eq!(apply("a+X", 0o644, Kind::Dir), 0o755);
        assert_eq!(apply("a=rx", 0o2770, Kind::Dir), 0o2555);
    }

    #[test]
    fn other_words_are_refused() {
        for bad in ["", "8", "12345", "77777", "u", "ux", "q+x", "u+q", "u+x,", ",", "u+x,8", "0x1ff", "6 4"]
        {
            assert!(ModeChange::parse(bad, 0).is_err(), "{bad}");
        }
    }
}
