//! Tests of the table: the queue, leases, restarts, limits, and random requests to a seeder that
//! crashes and loses its file.

use std::collections::BTreeSet;
use std::num::NonZero;

use proptest::prelude::*;

use super::*;

const LEASE: Duration = Duration::from_mins(1);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

fn table() -> TokenTable {
    TokenTable::new(TokenLimits::REGION)
}

fn request(act: TokenAct, host: u8, max: u32) -> TokenRequest {
    TokenRequest {
        act,
        app: "web".parse().unwrap(),
        group: "z1".into(),
        host: format!("host-{host}"),
        wish: 1,
        generation: 3,
        max_unavailable: HostCount::Hosts(NonZero::new(max).unwrap()),
        lease_ms: 60_000,
        has_failed: false,
    }
}

fn ask(host: u8, max: u32) -> TokenRequest {
    request(TokenAct::Ask, host, max)
}

/// A request under a goal that allows a quarter of the group.
fn ask_share(host: u8) -> TokenRequest {
    TokenRequest { max_unavailable: "25%".parse().unwrap(), ..ask(host, 1) }
}

fn app() -> AppName {
    "web".parse().unwrap()
}

/// That so many hosts of group z1 report the app.
fn group_of(hosts: usize) -> TokenRules {
    let key = PoolKey { app: app(), group: "z1".into() };
    let group = Group { size: hosts, down: BTreeMap::new() };
    TokenRules { groups: BTreeMap::from([(key, group)]), ..TokenRules::default() }
}

/// That the rollout of the generations has halted.
fn halt_of(since: u64, last: u64) -> TokenRules {
    let stop = Stop { since, last, reason: "exit code 3 on 2 hosts".into() };
    TokenRules { stops: BTreeMap::from([(app(), stop)]), ..TokenRules::default() }
}

impl TokenTable {
    fn asks(&mut self, now: Duration, host: u8, max: u32) -> bool {
        self.is_granted(now, host, &ask(host, max))
    }

    fn is_granted(&mut self, now: Duration, host: u8, request: &TokenRequest) -> bool {
        let handled = self.handle(now, node(host), request);
        matches!(handled.answer, TokenAnswer::Granted { .. })
    }

    fn returns(&mut self, now: Duration, host: u8) {
        self.handle(now, node(host), &request(TokenAct::Return, host, 1));
    }

    fn reason(&mut self, now: Duration, host: u8, max: u32) -> String {
        self.reason_for(now, host, &ask(host, max))
    }

    fn reason_for(&mut self, now: Duration, host: u8, request: &TokenRequest) -> String {
        match self.handle(now, node(host), request).answer {
            TokenAnswer::Waiting { reason, .. } | TokenAnswer::Refused { reason, .. } => reason,
            answer => panic!("{answer:?}"),
        }
    }

    /// As a seeder that is killed and started again at `now`.
    fn restarted(&self, now: Duration) -> Self {
        let bytes = self.document(now).expect("something was granted");
        Self::restored(now, self.limits, &bytes).unwrap()
    }

    fn check_counts(&self) {
        let nodes = self.pools.values().flat_map(|pool| {
            let holders = pool.holders.keys().chain(pool.leaving.keys()).copied();
            holders.chain(pool.waiting.iter().map(|waiter| waiter.node))
        });
        let mut counts = BTreeMap::new();
        for node in nodes {
            *counts.entry(node).or_insert(0) += 1;
        }
        assert_eq!(self.entries_of_node, counts);
        assert_eq!(self.entries, counts.values().sum::<usize>());
    }
}

#[test]
fn no_more_tokens_are_out_than_allowed_and_the_oldest_goes_first() {
    let mut table = table();
    assert!(table.asks(at(0), 1, 2) && table.asks(at(0), 2, 2));
    assert_eq!(table.reason(at(0), 3, 2), "2 of 2 tokens of group z1 are out (host-1, host-2)");
    assert!(table.reason(at(0), 4, 2).ends_with(", 1 host is ahead"));
    assert!(table.asks(at(1), 1, 2), "the same host asks again and has it still");
    table.returns(at(1), 2);
    assert!(!table.asks(at(1), 4, 2), "host-3 came first");
    assert!(table.asks(at(1), 3, 2));
    table.returns(at(2), 1);
    assert!(table.asks(at(2), 4, 2));
    table.check_counts();
}

#[test]
fn apps_and_groups_have_their_own_tokens() {
    let mut table = table();
    assert!(table.asks(at(0), 1, 1));
    let other_group = TokenRequest { group: "z2".into(), ..ask(2, 1) };
    let other_app = TokenRequest { app: "db".parse().unwrap(), ..ask(2, 1) };
    assert!(table.is_granted(at(0), 2, &other_group) && table.is_granted(at(0), 2, &other_app));
    assert!(!table.asks(at(0), 2, 1));
}

/// Goal: the place of a host that let its time run out stays taken until its silence is noticed.
#[test]
fn token_that_is_not_renewed_runs_out_and_its_place_is_kept_for_a_while() {
    let mut table = table();
    assert!(table.asks(at(0), 1, 1));
    let renew = request(TokenAct::Renew, 1, 1);
    assert!(table.is_granted(at(50), 1, &renew));
    assert!(!table.asks(at(109), 2, 1));
    assert_eq!(
        table.reason(at(110), 2, 1),
        "0 of 1 tokens of group z1 are out; a place is kept for host-1, whose token ran out: it \
         may be gone"
    );
    assert!(!table.asks(at(169), 2, 1));
    assert!(table.asks(at(170), 2, 1));
    assert!(!table.is_granted(at(170), 1, &renew), "too late, somebody else has it");
    let shorter = TokenRequest { lease_ms: 10_000, ..request(TokenAct::Renew, 2, 1) };
    assert!(table.is_granted(at(171), 2, &shorter));
    assert!(!table.is_granted(at(229), 1, &renew), "a shorter time takes nothing back");
    assert!(!table.asks(at(230), 3, 1) && table.is_granted(at(290), 1, &renew), "it came first");
    table.check_counts();
}

/// Goal: a host that comes back in time finds its place, and nobody else gets it.
#[test]
fn host_that_let_its_time_run_out_may_go_on_in_its_own_place() {
    let mut table = table();
    assert!(table.asks(at(0), 1, 1) && !table.asks(at(58), 2, 1));
    table.check_counts();
    assert!(!table.asks(at(60), 3, 1));
    table.check_counts();
    assert!(!table.is_granted(at(61), 1, &request(TokenAct::Renew, 1, 1)), "others wait longer");
    for second in [63, 66, 69, 72] {
        assert!(!table.asks(at(second), 2, 1) && !table.asks(at(second), 3, 1));
    }
    let mut alone = self::table();
    assert!(alone.asks(at(0), 1, 1));
    assert!(alone.is_granted(at(70), 1, &request(TokenAct::Renew, 1, 1)));
    assert!(!alone.asks(at(70), 2, 1));
    alone.returns(at(71), 1);
    assert!(alone.asks(at(75), 2, 1));
    // So does one that only gives back what has run out.
    assert!(!alone.asks(at(136), 3, 1));
    alone.returns(at(137), 2);
    assert!(alone.asks(at(137), 3, 1));
    alone.check_counts();
}

/// Goal: the next host does not begin before the failure of the last was judged.
#[test]
fn place_of_a_host_whose_build_failed_is_kept_for_a_while() {
    let mut table = table();
    assert!(table.asks(at(0), 1, 1) && !table.asks(at(0), 2, 1));
    let failed = TokenRequest { has_failed: true, ..request(TokenAct::Return, 1, 1) };
    assert_eq!(table.handle(at(1), node(1), &failed).answer, TokenAnswer::Returned);
    assert_eq!(
        table.reason(at(1), 2, 1),
        "0 of 1 tokens of group z1 are out; until it is judged, a place is kept for host-1, where \
         the build failed"
    );
    // Said twice, or of a token that it does not hold, it counts once.
    table.handle(at(2), node(1), &failed);
    table.handle(at(2), node(3), &TokenRequest { host: "host-3".into(), ..failed.clone() });
    table.check_counts();
    assert!(!table.asks(at(6), 2, 1) && !table.asks(at(10), 2, 1));
    assert!(table.asks(at(11), 2, 1));
    table.returns(at(12), 2);
    assert!(table.asks(at(12), 4, 1), "one that is well gives its place back at once");
    table.check_counts();
}

/// The group of 8 hosts in which these are down.
fn group_with_down(down: &[(u8, bool)]) -> TokenRules {
    let mut rules = group_of(0);
    let group = rules.groups.values_mut().next().unwrap();
    for host in 1..=8 {
        let state = down.iter().find(|(down, _)| *down == host);
        let row =
            state.map(|(_, is_away)| DownHost { host: format!("host-{host}"), is_away: *is_away });
        // Of every other one it is not known which node it is.
        let known = node(host).to_string();
        group.add((host % 2 == 0).then_some(known.as_str()), row);
    }
    rules
}

/// Goal: with a quarter of the hosts down, no host that serves is taken away.
#[test]
fn hosts_that_do_not_serve_take_the_places_of_tokens() {
    let mut table = table();
    let asks = |table: &mut TokenTable, host: u8| table.is_granted(at(0), host, &ask_share(host));
    table.set_rules(group_with_down(&[(7, true)]));
    assert!(asks(&mut table, 1) && !asks(&mut table, 2));
    assert_eq!(
        table.reason_for(at(0), 3, &ask_share(3)),
        "1 of 2 tokens of group z1 are out (host-1; 25% of 8 hosts), 1 host is ahead; 1 host does \
         not serve and takes a place (host-7 is away)"
    );
    table.set_rules(group_with_down(&[(7, true), (8, false)]));
    table.returns(at(0), 1);
    assert!(!asks(&mut table, 2));
    let reason = table.reason_for(at(0), 2, &ask_share(2));
    let expected = "0 of 2 tokens of group z1 are out (25% of 8 hosts); 2 hosts do not serve and \
                    take places (host-7 is away, host-8 has a program that fails)";
    assert_eq!(reason, expected);
    // One whose program fails needs no place but its own, and those that wait in vain are not
    // before it. One that asks is not away: it is as any other that serves.
    assert!(!asks(&mut table, 7) && asks(&mut table, 8));
    table.set_rules(group_with_down(&[(7, false), (8, false)]));
    assert!(asks(&mut table, 7));
    table.set_rules(group_with_down(&[(1, false), (7, true), (8, false)]));
    assert!(!asks(&mut table, 1), "not more than two at once all the same");
    table.set_rules(group_with_down(&[]));
    assert!(!asks(&mut table, 2), "two have tokens");
    table.returns(at(0), 7);
    assert!(asks(&mut table, 2));
    table.check_counts();
}

/// Goal: a seeder that was just started, whose rows are all old, lets nobody begin.
#[test]
fn hosts_that_ask_while_all_rows_are_old_get_nothing() {
    let mut table = table();
    let all: Vec<(u8, bool)> = (1..=8).map(|host| (host, true)).collect();
    table.set_rules(group_with_down(&all));
    let asks = |table: &mut TokenTable, host: u8| table.is_granted(at(0), host, &ask_share(host));
    for host in 1..=8 {
        assert!(!asks(&mut table, host), "host {host}");
    }
    // As reports come in; its own old row is not in its way.
    table.set_rules(group_with_down(&[(1, true), (8, true)]));
    assert!(asks(&mut table, 1) && !asks(&mut table, 2));
    table.check_counts();
}

/// Goal: a host that holds a token and is down takes one place, not two.
#[test]
fn host_that_is_down_with_its_token_counts_once() {
    let mut table = table();
    table.set_rules(group_of(8));
    let asks = |table: &mut TokenTable, host: u8| table.is_granted(at(0), host, &ask_share(host));
    assert!(asks(&mut table, 1));
    table.set_rules(group_with_down(&[(1, false)]));
    assert!(asks(&mut table, 2));
    table.set_rules(group_with_down(&[(1, false), (2, false)]));
    let reason = table.reason_for(at(0), 3, &ask_share(3));
    assert_eq!(reason, "2 of 2 tokens of group z1 are out (host-1, host-2; 25% of 8 hosts)");
    table.check_counts();
}

#[test]
fn goal_that_was_not_read_says_nothing_about_the_limit() {
    let mut table = table();
    let known = |read| TokenRules {
        known: Some(BTreeMap::from([(app(), Ok(read))])),
        ..TokenRules::default()
    };
    table.set_rules(known(3));
    let invented = TokenRequest { generation: 9, ..ask(1, 4) };
    assert!(!table.is_granted(at(0), 1, &invented));
    assert!(table.asks(at(0), 2, 1), "what the first said is not believed");
    assert!(!table.is_granted(at(0), 1, &invented) && !table.asks(at(0), 3, 4));
    assert_eq!(table.pools.values().map(|pool| pool.max(None)).collect::<Vec<_>>(), [1]);
}

#[test]
fn host_that_stops_asking_loses_its_place() {
    let mut table = table();
    assert!(table.asks(at(0), 1, 1));
    assert!(!table.asks(at(0), 2, 1) && !table.asks(at(0), 3, 1));
    table.returns(at(1), 1);
    assert!(!table.asks(at(1), 3, 1), "host-2 may still come");
    let gone = RETRY_MIN * 3 + SILENCE_MAX;
    assert!(table.asks(gone, 3, 1));
    assert!(!table.asks(gone, 2, 1), "and begins at the end");
    table.check_counts();
}

#[test]
fn newest_goal_says_how_many() {
    let mut table = table();
    assert!(table.asks(at(0), 1, 2) && table.asks(at(0), 2, 2));
    let newer = TokenRequest { generation: 4, ..ask(3, 1) };
    assert!(!table.is_granted(at(0), 3, &newer));
    table.returns(at(1), 1);
    assert!(!table.is_granted(at(1), 3, &newer), "one is out, which is all there is now");
    assert!(!table.asks(at(1), 4, 9), "a host that lags has no say");
    table.returns(at(1), 2);
    assert!(table.is_granted(at(1), 3, &newer));
    let newest = TokenRequest { generation: 5, ..ask(4, 2) };
    assert!(table.is_granted(at(1), 4, &newest));
}

#[test]
fn share_follows_the_size_of_the_group() {
    let mut table = table();
    table.set_rules(group_of(8));
    let asks = |table: &mut TokenTable, host: u8| table.is_granted(at(0), host, &ask_share(host));
    assert!(asks(&mut table, 1) && asks(&mut table, 2) && !asks(&mut table, 3));
    let reason = table.reason_for(at(0), 3, &ask_share(3));
    let expected = "2 of 2 tokens of group z1 are out (host-1, host-2; 25% of 8 hosts)";
    assert_eq!(reason, expected);
    table.set_rules(group_of(12));
    assert!(asks(&mut table, 3) && !asks(&mut table, 4), "the group grew");
    table.set_rules(group_of(5));
    for host in 1..=3 {
        assert!(asks(&mut table, host), "a group that shrinks takes no token back");
    }
    table.returns(at(0), 1);
    table.returns(at(0), 2);
    assert!(!asks(&mut table, 4), "one is out, which is all of 5 hosts now");
    table.returns(at(0), 3);
    assert!(asks(&mut table, 4));
    table.check_counts();
}

#[test]
fn group_is_not_smaller_than_the_hosts_that_ask() {
    let mut table = table();
    table.set_rules(group_of(1));
    assert!(table.is_granted(at(0), 1, &ask_share(1)));
    for host in 2..=7 {
        assert!(!table.is_granted(at(0), host, &ask_share(host)), "host {host}");
    }
    assert!(table.reason_for(at(0), 7, &ask_share(7)).contains("25% of 7 hosts"));
    assert!(!table.is_granted(at(0), 8, &ask_share(8)));
    assert!(table.is_granted(at(0), 2, &ask_share(2)), "a quarter of 8 is two");
}

#[test]
fn one_host_at_a_time_while_the_size_is_not_known() {
    let mut table = table();
    assert!(table.is_granted(at(0), 1, &ask_share(1)));
    for host in 2..=9 {
        assert!(!table.is_granted(at(0), host, &ask_share(host)), "host {host}");
    }
    assert_eq!(
        table.reason_for(at(0), 3, &ask_share(3)),
        "1 of 1 tokens of group z1 are out (host-1), 1 host is ahead; the seeder does not know the \
         size of group z1 yet, so one host at a time"
    );
    let nameless = |host| TokenRequest { group: String::new(), ..ask(host, 1) };
    assert!(table.is_granted(at(0), 1, &nameless(1)));
    assert_eq!(
        table.reason_for(at(0), 2, &nameless(2)),
        "1 of 1 tokens of the hosts without a group are out (host-1)"
    );
}

#[test]
fn lower_of_two_limits_of_one_generation_holds() {
    for (number, granted) in [(1, 1), (3, 2)] {
        let mut table = table();
        table.set_rules(group_of(8));
        let mut hosts = vec![];
        for host in 1..=8 {
            let request = if host % 2 == 0 { ask(host, number) } else { ask_share(host) };
            // Each asks twice, so that each has said what it knows.
            if table.is_granted(at(0), host, &request) || table.is_granted(at(0), host, &request) {
                hosts.push(host);
            }
        }
        // The first was granted its token before the other limit was known.
        assert!(hosts.len() <= granted.max(1), "{number}: {hosts:?}");
        assert_eq!(table.pools.values().map(|pool| pool.max(Some(8))).max(), Some(granted));
    }
}

#[test]
fn halted_rollout_gets_no_more_tokens_and_holders_finish() {
    let mut table = table();
    assert!(table.asks(at(0), 1, 2) && table.asks(at(0), 2, 2) && !table.asks(at(0), 3, 2));
    table.set_rules(halt_of(2, 3));
    assert!(table.is_granted(at(1), 1, &request(TokenAct::Renew, 1, 2)), "a holder finishes");
    table.returns(at(1), 2);
    assert_eq!(table.reason(at(1), 3, 2), "the rollout is halted: exit code 3 on 2 hosts");
    let earlier = TokenRequest { generation: 2, ..ask(4, 2) };
    assert!(!table.is_granted(at(1), 4, &earlier), "of the same rollout");
    let restart = TokenRequest { generation: 4, ..ask(5, 2) };
    assert!(table.is_granted(at(1), 5, &restart), "a host that knows of the halt restarts");
    table.set_rules(TokenRules::default());
    table.returns(at(20), 5);
    assert!(table.is_granted(at(20), 3, &TokenRequest { generation: 5, ..ask(3, 2) }), "resumed");
    table.check_counts();
}

#[test]
fn halt_outlives_a_lost_table() {
    let mut table = TokenTable::lost(at(0), TokenLimits::REGION);
    table.set_rules(halt_of(3, 3));
    assert!(table.is_granted(at(1), 1, &request(TokenAct::Renew, 1, 2)), "it is believed");
    assert!(!table.asks(at(200), 2, 2));
    table.set_rules(TokenRules::default());
    assert!(table.asks(at(200), 2, 2));
}

#[test]
fn tokens_of_an_app_wait_until_its_goal_was_looked_at() {
    let mut table = table();
    let rules = |known: &[Result<u64, &str>], trouble: Option<&str>| TokenRules {
        known: Some(known.iter().map(|read| (app(), read.map_err(str::to_owned))).collect()),
        trouble: trouble.map(str::to_owned),
        ..TokenRules::default()
    };
    let down = Some("etcd is down");
    let cases = [
        (rules(&[], None), "the seeder has not read the goal of web yet"),
        (rules(&[], down), "the seeder cannot read the goal of web: etcd is down"),
        (rules(&[Ok(2)], down), "the seeder cannot read the goal of web: etcd is down"),
        (
            rules(&[Ok(2)], None),
            "the host follows goal 3 of web, and the seeder has read goal 2 so far",
        ),
        (rules(&[Err("the goal is gone")], down), "the goal is gone"),
    ];
    for (rules, expected) in cases {
        table.set_rules(rules);
        assert_eq!(table.reason(at(0), 1, 1), expected);
    }
    // What was read stands while the goal store is down.
    table.set_rules(rules(&[Ok(3)], down));
    assert!(table.asks(at(0), 1, 1));
}

#[test]
fn documents_of_earlier_seeders_are_read() {
    let key = "01".repeat(32);
    let text = format!(
        r#"{{"version":1,"pools":[{{"app":"web","group":"z1","generation":3,"max_unavailable":2,
        "holders":[{{"node":"{key}","host":"host-1","wish":1,"lease_ms":60000}}]}}]}}"#
    );
    let mut table = TokenTable::restored(at(0), TokenLimits::REGION, text.as_bytes()).unwrap();
    assert!(table.asks(at(0), 2, 2) && !table.asks(at(0), 3, 2));
    // A share is stored as a share, and grows with the group after a restart.
    table.set_rules(group_of(16));
    let share = |host| TokenRequest { generation: 4, ..ask_share(host) };
    assert!(table.is_granted(at(0), 3, &share(3)));
    let mut table = table.restarted(at(1));
    table.set_rules(group_of(16));
    assert!(table.asks(at(1), 4, 9) && !table.asks(at(1), 5, 9), "4 of 16 by the stored share");
}

#[test]
fn late_messages_of_earlier_wishes_change_nothing() {
    let mut table = table();
    let second = TokenRequest { wish: 2, ..ask(1, 1) };
    assert!(table.asks(at(0), 1, 1) && table.is_granted(at(1), 1, &second));
    table.returns(at(2), 1);
    assert!(!table.asks(at(2), 2, 1), "the token of the second wish is still out");
    assert!(!table.asks(at(2), 1, 1), "a late request of the first wish is not answered with it");
    let give_back = TokenRequest { wish: 2, ..request(TokenAct::Return, 1, 1) };
    assert_eq!(table.handle(at(3), node(1), &give_back).answer, TokenAnswer::Returned);
    assert!(table.asks(at(3), 2, 1));
    // Of those who wait, too.
    let waiting = TokenRequest { wish: 5, ..ask(3, 1) };
    assert!(!table.is_granted(at(3), 3, &waiting));
    table.returns(at(3), 3);
    table.returns(at(3), 2);
    assert!(!table.asks(at(3), 4, 1), "host-3 waits still");
    assert!(table.is_granted(at(3), 3, &waiting));
    table.check_counts();
}

#[test]
fn grants_are_stored_before_they_are_answered_and_renewals_need_not_be() {
    let mut table = table();
    assert!(table.handle(at(0), node(1), &ask(1, 1)).needs_disk);
    assert!(table.handle(at(0), node(1), &ask(1, 1)).needs_disk, "it was not stored yet");
    assert!(!table.handle(at(0), node(2), &ask(2, 1)).needs_disk);
    assert!(table.document(at(0)).is_some());
    table.on_stored();
    assert_eq!(table.document(at(0)), None);
    let renew = request(TokenAct::Renew, 1, 1);
    assert!(!table.handle(at(20), node(1), &renew).needs_disk);
    assert_eq!(table.document(at(20)), None);
    let longer = TokenRequest { lease_ms: 70_000, ..renew };
    assert!(table.handle(at(21), node(1), &longer).needs_disk, "a restart must know the time");
    table.on_stored();
    table.returns(at(22), 1);
    assert!(table.document(at(22)).is_some());
}

#[test]
fn stored_tokens_count_for_their_whole_time_after_a_restart() {
    let mut table = table();
    assert!(table.asks(at(0), 1, 2) && table.asks(at(0), 2, 2));
    let mut table = table.restarted(at(1_000));
    table.check_counts();
    assert!(!table.asks(at(1_000), 3, 9), "the stored generation still says two");
    assert!(table.is_granted(at(1_030), 1, &request(TokenAct::Renew, 1, 2)));
    assert!(table.is_granted(at(1_080), 1, &request(TokenAct::Renew, 1, 2)));
    assert!(!table.asks(at(1_119), 3, 2), "its place is kept for a while");
    assert!(table.asks(at(1_120), 3, 2), "host-2 never came back");
    assert!(!table.asks(at(1_120), 4, 2));
}

#[test]
fn lost_table_grants_nothing_until_all_that_may_be_out_has_run_out() {
    let mut table = TokenTable::lost(at(0), TokenLimits::REGION);
    let end = LEASE_MAX;
    assert!(table.reason(at(0), 1, 2).contains("lost its table of tokens and waits 121 s"));
    // A host that says that it holds one is believed, as long as it can be true.
    let renew = |host| request(TokenAct::Renew, host, 2);
    let handled = table.handle(at(1), node(2), &renew(2));
    assert_eq!(
        handled,
        Handled { answer: TokenAnswer::Granted { lease_ms: millis(LEASE) }, needs_disk: false }
    );
    assert!(table.is_granted(at(1), 3, &renew(3)) && !table.is_granted(at(1), 4, &renew(4)));
    assert_eq!(table.document(at(1)), None, "a part must not pass for the whole");
    assert!(!table.asks(end.saturating_sub(at(1)), 1, 2));
    let end = end + at(2);
    assert!(table.asks(end, 1, 2), "the places of those that were believed are free, too");
    assert!(table.document(end).is_some());
    table.check_counts();
}

#[test]
fn damaged_documents_are_refused() {
    let mut table = table();
    assert!(table.asks(at(0), 1, 1));
    let text = String::from_utf8(table.document(at(0)).unwrap()).unwrap();
    let cases = [
        ("empty", String::new(), "EOF"),
        ("cut off", text[..text.len() / 2].to_owned(), "EOF"),
        ("newer", text.replace("\"version\": 1", "\"version\": 2"), "version is 2, expected 1"),
        ("key", text.replace("0101", "01xx"), "not the key of a node"),
        ("zero", text.replace("\"max_unavailable\": 1", "\"max_unavailable\": 0"), "no number"),
    ];
    for (name, text, expected) in cases {
        let error = TokenTable::restored(at(0), TokenLimits::REGION, text.as_bytes()).unwrap_err();
        assert!(error.to_string().contains(expected), "{name}: {error}");
    }
}

#[test]
fn table_is_bounded() {
    let limits = TokenLimits { pools_max: 2, entries_max: 3, entries_per_node_max: 2 };
    let mut table = TokenTable::new(limits);
    let of = |group: &str, host| TokenRequest { group: group.into(), ..ask(host, 1) };
    assert!(table.is_granted(at(0), 1, &of("a", 1)) && table.is_granted(at(0), 1, &of("b", 1)));
    let reason = match table.handle(at(0), node(2), &of("c", 2)).answer {
        TokenAnswer::Refused { reason, .. } => reason,
        answer => panic!("{answer:?}"),
    };
    assert!(reason.contains("full (at most 3 hosts, 2 apps of one host, 2 groups)"), "{reason}");
    assert!(!table.is_granted(at(0), 2, &of("a", 2)), "the third entry: it waits");
    let refused = |answer| matches!(answer, TokenAnswer::Refused { .. });
    assert!(refused(table.handle(at(0), node(3), &of("a", 3)).answer), "a fourth entry");
    assert!(table.is_granted(at(1), 1, &of("a", 1)), "those who are in are served on");
    // What has run out makes room.
    assert!(table.is_granted(at(130), 3, &of("c", 3)));
    table.check_counts();

    let mut table = TokenTable::new(TokenLimits { pools_max: 9, ..limits });
    assert!(table.is_granted(at(0), 1, &of("a", 1)) && table.is_granted(at(0), 1, &of("b", 1)));
    assert!(refused(table.handle(at(0), node(1), &of("c", 1)).answer), "two per node");
}

#[test]
fn queue_of_a_large_region_asks_seldom() {
    assert_eq!(retry_at(0), RETRY_MIN);
    assert_eq!(retry_at(100), RETRY_MIN + Duration::from_secs(2));
    assert_eq!(retry_at(usize::MAX), RETRY_MAX);
}

/// What may happen to a table and its hosts.
#[derive(Clone, Debug)]
enum Happening {
    /// The host asks, or renews if it believes that it holds one.
    Asks {
        host: u8,
    },
    /// The request arrives, the answer is lost.
    AsksInVain {
        host: u8,
    },
    Returns {
        host: u8,
    },
    /// The same because the build failed there.
    Fails {
        host: u8,
    },
    /// The host does not serve any more, or serves again.
    Turns {
        host: u8,
    },
    /// The seeder is killed after what it stored.
    Restarts,
    /// ... and its file is gone.
    LosesTable,
    Passes {
        seconds: u64,
    },
}

fn happening() -> impl Strategy<Value = Happening> {
    let host = || 0..6_u8;
    prop_oneof![
        8 => host().prop_map(|host| Happening::Asks { host }),
        2 => host().prop_map(|host| Happening::AsksInVain { host }),
        2 => host().prop_map(|host| Happening::Returns { host }),
        1 => host().prop_map(|host| Happening::Fails { host }),
        2 => host().prop_map(|host| Happening::Turns { host }),
        1 => Just(Happening::Restarts),
        1 => Just(Happening::LosesTable),
        4 => (0..40_u64).prop_map(|seconds| Happening::Passes { seconds }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Goal: whatever happens, no more hosts believe that they hold a token than the goal allows,
    /// and no host that serves begins while it makes one too many with those that do not.
    /// Method: hosts believe it until their lease, counted from when they asked, is over; the
    /// seeder stores what it must before it answers, and is killed or loses its file at any time.
    #[test]
    fn never_more_believe_to_hold_one_than_allowed(
        max in 1..4_u32,
        fails in any::<bool>(),
        happenings in prop::collection::vec(happening(), 1..120),
    ) {
        let mut table = table();
        let mut now = at(0);
        let mut stored = table.document(now).unwrap();
        table.on_stored();
        let mut believes: BTreeMap<u8, Duration> = BTreeMap::new();
        let mut down = BTreeSet::new();
        let rules_of = |down: &BTreeSet<u8>| {
            let mut rules = group_of(0);
            for host in 0..6 {
                let state = DownHost { host: format!("host-{host}"), is_away: !fails };
                let state = down.contains(&host).then_some(state);
                rules.groups.values_mut().next().unwrap().add(None, state);
            }
            rules
        };
        for happening in happenings {
            match happening {
                Happening::Asks { host } | Happening::AsksInVain { host } => {
                    let act =
                        if believes.contains_key(&host) { TokenAct::Renew } else { TokenAct::Ask };
                    let mut holders = table.pools.values().flat_map(|pool| &pool.holders);
                    let has_it = holders.any(|(of, held)| *of == node(host) && held.until > now);
                    let begins = act == TokenAct::Ask && !has_it;
                    let handled = table.handle(now, node(host), &request(act, host, max));
                    if handled.needs_disk {
                        stored = table.document(now).expect("it says that it is to be stored");
                        table.on_stored();
                    }
                    if let TokenAnswer::Granted { lease_ms } = handled.answer
                        && matches!(happening, Happening::Asks { .. })
                    {
                        believes.insert(host, now + Duration::from_millis(lease_ms));
                        let away = believes.keys().chain(&down).collect::<BTreeSet<_>>().len();
                        let is_free = !begins || (fails && down.contains(&host));
                        let is_right = is_free || away <= usize::try_from(max).unwrap();
                        prop_assert!(is_right, "{host} of {max}: {believes:?} {down:?}");
                    }
                }
                Happening::Returns { host } => {
                    believes.remove(&host);
                    table.returns(now, host);
                }
                Happening::Fails { host } => {
                    believes.remove(&host);
                    let failed = request(TokenAct::Return, host, 1);
                    table.handle(now, node(host), &TokenRequest { has_failed: true, ..failed });
                }
                Happening::Turns { host } => {
                    if !down.remove(&host) {
                        down.insert(host);
                    }
                    table.set_rules(rules_of(&down));
                }
                Happening::Restarts => {
                    // A lost file stays lost until something is stored again.
                    table = match TokenTable::restored(now, TokenLimits::REGION, &stored) {
                        Ok(table) => table,
                        Err(_) => TokenTable::lost(now, TokenLimits::REGION),
                    };
                    table.set_rules(rules_of(&down));
                }
                Happening::LosesTable => {
                    stored.clear();
                    table = TokenTable::lost(now, TokenLimits::REGION);
                    table.set_rules(rules_of(&down));
                }
                Happening::Passes { seconds } => now += at(seconds),
            }
            believes.retain(|_, until| *until > now);
            table.check_counts();
            let count = u32::try_from(believes.len()).unwrap();
            prop_assert!(count <= max, "{count} of {max}: {believes:?} at {now:?}");
        }
    }

    /// Goal: with hosts that go on asking, everybody has had a token in the end.
    #[test]
    fn everybody_gets_one_in_the_end(max in 1..4_u32, hosts in 1..12_u8) {
        let mut table = table();
        let mut had = BTreeSet::new();
        let mut holding: BTreeMap<u8, u64> = BTreeMap::new();
        for round in 0..u64::from(hosts) * 4 {
            for host in (0..hosts).filter(|host| !had.contains(host)).collect::<Vec<_>>() {
                if table.asks(at(round), host, max) {
                    holding.entry(host).or_insert(round);
                }
            }
            for (host, since) in holding.clone() {
                if since < round {
                    table.returns(at(round), host);
                    holding.remove(&host);
                    had.insert(host);
                }
            }
        }
        prop_assert_eq!(had.len(), usize::from(hosts));
    }
}
