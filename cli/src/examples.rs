//! The end of each `--help`: what a person types.

pub(crate) const ALL: &str = "\
Examples:
  unanimous check                  are log and servers fit?
  unanimous list                   what is prepared, and what would recovery do about it?
  unanimous show GTRID             one transaction: whom does it block, what may I do?
  unanimous recover                end what is in doubt: shows the plan, asks, acts
  unanimous log verify             is every byte of the log sound?
  unanimous -c /etc/shop.toml list --format json | jq .resources

Exit codes:
  0  all is well: nothing is in doubt, nothing was found but notes, or it is done
  1  something is in doubt or left, there are warnings, or the answer was no
  2  failed, or errors were found; what was typed cannot be understood";

pub(crate) const CHECK: &str = "\
Examples:
  unanimous check                                     every finding, with what mends it
  unanimous check --format json | jq '.log.findings'
  unanimous check --fail-on error                     in a deployment: warnings may pass
  unanimous check --allow binlog_format               what is known does not count";

pub(crate) const LIST: &str = "\
Examples:
  unanimous list
  unanimous list --blocking --sort blocked             whom does it hurt most?
  unanimous list --in-doubt --older-than 5m --resource orders
  unanimous list --format json | jq '.resources[].branches[] | select(.in_doubt)'";

pub(crate) const SHOW: &str = "\
Examples:
  unanimous show k19vvc3g4pqywgza-1-64h5ej5ytv0hp-1
  unanimous show 'unanimous:k19vvc3g4pqywgza-1-64h5ej5ytv0hp-1:orders'
                                   by the name in PostgreSQL's pg_prepared_xacts
  unanimous show k19vvc            by its beginning, if no other transaction has it
  unanimous show k19vvc --format json | jq '.branches[].branch.held.session_list'";

pub(crate) const RECOVER: &str = "\
Examples:
  unanimous recover --dry-run      what would be done?
  unanimous recover                shows the plan, asks, acts
  unanimous recover --yes          in a script, where nobody can be asked
  unanimous recover --resource orders --yes            only there
  unanimous recover --close 7      on a shared log: the member of epoch 7 is known to be dead";

pub(crate) const RESOLVE: &str = "\
Examples:
  unanimous resolve GTRID --rollback --reason 'ticket 4711' --dry-run
  unanimous resolve GTRID --rollback --reason 'ticket 4711'
  unanimous resolve GTRID --commit --resource orders --against-the-decision --reason '…'
                                   the transaction ends in part, and is reported so";

pub(crate) const FORGET: &str = "\
Examples:
  unanimous list --heuristic       which transactions ended in part?
  unanimous forget GTRID --reason 'booked by hand, ticket 4711'
  unanimous forget GTRID --lost ledger --reason 'the ledger is gone for good, ticket 4711'
                                   a decision waits for a branch that will never come back";

pub(crate) const BARRIER: &str = "\
Examples:
  unanimous barrier -- ./snapshots.sh                 decisions are held while this runs
  unanimous barrier --limit 30s -- pg_dumpall --file all.sql
  unanimous barrier                                   until Enter is pressed";

pub(crate) const LOG_INIT: &str = "\
Examples:
  unanimous log init               makes the tables
  unanimous log init --print       prints the SQL for somebody who may make them";

pub(crate) const LOG_MOVE: &str = "\
Examples:
  unanimous --config old.toml log move --to new.toml";

pub(crate) const LOG_ADOPT: &str = "\
Examples:
  unanimous log adopt              the folder that --config names, which was copied or moved there";

pub(crate) const LOG_SHOW: &str = "\
Examples:
  unanimous log show                                  openings, pending decisions, heuristic ends
  unanimous log show --pending                        what has to be committed yet
  unanimous log show k19vvc3g4pqywgza-1-64h5ej5ytv0hp-1
                                                      what the log says of one transaction
  unanimous log show --all --format json | jq '.transactions | length'";

pub(crate) const LOG_VERIFY: &str = "\
Examples:
  unanimous log verify
  unanimous log verify --format json | jq '.findings[] | {part, offset, evidence}'

Exit codes: 0 sound (a torn tail is: the next opening cuts it off), 1 warnings, 2 damage, or the log
cannot be read.";

pub(crate) const LOG_EXPORT: &str = "\
Examples:
  unanimous log export > copy.jsonl                   a copy, to look at or to keep
  unanimous log export --seal --out log.jsonl         the log ends here and goes on where it is
                                                      imported
  unanimous log export --seal --salvage --out log.jsonl
                                                      what is sound of a damaged log";

pub(crate) const LOG_IMPORT: &str = "\
Examples:
  unanimous --config new.toml log import log.jsonl
  unanimous --config new.toml log import --incomplete copy.jsonl
                                   decisions may be missing: what is not decided in it is left to
                                   a person";

pub(crate) const COMPLETIONS: &str = "\
Examples:
  unanimous completions bash > /etc/bash_completion.d/unanimous
  unanimous completions zsh > ~/.zfunc/_unanimous
  unanimous completions fish > ~/.config/fish/completions/unanimous.fish";

pub(crate) const MAN: &str = "\
Examples:
  unanimous man | man -l -
  unanimous man --out /usr/local/share/man/man1";
