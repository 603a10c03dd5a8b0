//! `codax quota`: how much of each pool users and directories may have.

use super::users::Names;
use super::{Context, done, unexpected};
use crate::args::{QuotaArgs, QuotaCommand, WhoseArgs, checked};
use crate::output::json::PathForm;
use crate::output::table;
use anyhow::Result;
use codax_core::info::QuotaInfo;
use codax_core::name::StorePath;
use codax_core::request::QuotaOf;
use codax_core::units::{format_size, parse_size};
use codax_wire::{Reply, Request};
use serde::Serialize;

/// `codax quota`.
pub fn run(context: &Context, args: &QuotaArgs) -> Result<()> {
    let (whose, pool, bytes) = match &args.command {
        None | Some(QuotaCommand::List) => return list(context),
        Some(QuotaCommand::Set(set)) => (&set.whose, Some(&set.pool), Some(parse_size(&set.size)?)),
        Some(QuotaCommand::Clear(clear)) => (&clear.whose, clear.pool.as_ref(), None),
    };
    let of = of(whose)?;
    let store = context.store()?;
    done(&store, Request::SetQuota { of: of.clone(), pool: pool.cloned(), bytes })?;
    let row = Changed { of: Whose::new(&of, &Names::users()), pool: pool.cloned(), limit: bytes };
    context.print([row], String::new)
}

fn of(whose: &WhoseArgs) -> Result<QuotaOf> {
    Ok(match (&whose.user, &whose.dir) {
        (Some(user), _) => QuotaOf::User(Names::users().id(user)?),
        (None, dir) => {
            QuotaOf::Dir(dir.as_ref().map_or_else(|| Ok(StorePath::root()), |dir| checked::path(dir))?)
        }
    })
}

fn list(context: &Context) -> Result<()> {
    let store = context.store()?;
    let mut all: Vec<QuotaInfo> = Vec::new();
    loop {
        match store.call(Request::Quotas { first: all.len() as u64 })? {
            Reply::Quotas { quotas, more } => {
                all.extend(quotas);
                if more == 0 {
                    break;
                }
            }
            other => return Err(unexpected(&other).into()),
        }
    }
    context.print(rows(&all), || text(&all))
}

/// Quotas, as JSON has them.
pub fn rows(quotas: &[QuotaInfo]) -> Vec<Row<'_>> {
    let users = Names::users();
    quotas.iter().map(|quota| Row::new(quota, &users)).collect()
}

/// Quotas as a table.
pub fn text(quotas: &[QuotaInfo]) -> String {
    let users = Names::users();
    let mut table = table::new(&["quota of", "pool", ">used", ">limit", ">use%", ""]);
    for quota in quotas {
        let of = match &quota.of {
            QuotaOf::User(uid) => format!("user {}", users.name_and_number(*uid)),
            QuotaOf::Dir(path) => path.to_string(),
        };
        let percent = match quota.limit {
            0 => "-".to_owned(),
            limit => format!("{}%", (u128::from(quota.used) * 100).div_ceil(u128::from(limit))),
        };
        let over = if quota.over { "over: nothing new until it has less" } else { "" };
        let (used, limit) = (format_size(quota.used), format_size(quota.limit));
        table::row(&mut table, [of, quota.pool.clone(), used, limit, percent, over.to_owned()]);
    }
    table::text(&table)
}

/// Whose a quota is: a user or a path, and the other is null.
#[derive(Serialize)]
struct Whose {
    uid: Option<u32>,
    /// The user's name, or the number where there is none.
    user: Option<String>,
    path: Option<String>,
    path_hex: Option<String>,
}

impl Whose {
    fn new(of: &QuotaOf, users: &Names) -> Self {
        match of {
            QuotaOf::User(uid) => {
                Self { uid: Some(*uid), user: Some(users.name(*uid)), path: None, path_hex: None }
            }
            QuotaOf::Dir(dir) => {
                let PathForm { path, path_hex } = dir.into();
                Self { uid: None, user: None, path, path_hex: Some(path_hex) }
            }
        }
    }
}

/// A quota, as JSON has it.
#[derive(Serialize)]
pub struct Row<'a> {
    #[serde(flatten)]
    of: Whose,
    pool: &'a str,
    /// Bytes in frames.
    used: u64,
    limit: u64,
    over: bool,
}

impl<'a> Row<'a> {
    fn new(quota: &'a QuotaInfo, users: &Names) -> Self {
        let QuotaInfo { of, pool, used, limit, over } = quota;
        Self { of: Whose::new(of, users), pool, used: *used, limit: *limit, over: *over }
    }
}

/// What was set or cleared, as JSON has it.
#[derive(Serialize)]
struct Changed {
    #[serde(flatten)]
    of: Whose,
    /// Null: all of them.
    pool: Option<String>,
    /// Bytes; null: no limit.
    limit: Option<u64>,
}
