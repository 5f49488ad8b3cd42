//! Questions about topics that this crate knows nothing of, over real sockets.

use p2p_core::NodeId;
use p2p_net::{AskError, Identity, NoAnswer, Node, NodeConfig, Refusal, STATUS_TOPIC};

use crate::rig::{host, host_config, seeder, soon};

/// Answers every question with its topic and its body, reversed; drops those about `silence`.
async fn answer_all(seeder: Node) {
    while let Some(ask) = seeder.next_ask().await {
        if ask.topic != "silence" {
            let said: Vec<u8> = ask.topic.bytes().chain(ask.body.iter().copied().rev()).collect();
            ask.answer(said);
        }
    }
}

#[tokio::test]
async fn seeder_answers_what_it_is_asked() {
    let seeder = seeder(None).await;
    let host = host(&seeder).await;
    let answering = tokio::spawn(answer_all(seeder.clone()));
    let ask = |topic: &'static str, body: Vec<u8>| soon(host.ask(seeder.id(), topic, body));
    assert_eq!(ask("t", b"abc".to_vec()).await, Ok(b"tcba".to_vec()));
    assert_eq!(ask("", vec![]).await, Ok(vec![]));
    let largest = vec![7; (64 << 10) - 2];
    assert_eq!(ask("t", largest).await.unwrap().len(), (64 << 10) - 1);
    let refused = Err(AskError::Refused { refusal: Refusal::Unanswered });
    assert_eq!(ask("silence", vec![]).await, refused, "dropped without an answer");
    let (one, two) = tokio::join!(ask("t", b"1".to_vec()), ask("t", b"2".to_vec()));
    assert_eq!((one.unwrap(), two.unwrap()), (b"t1".to_vec(), b"t2".to_vec()));

    soon(seeder.shutdown()).await;
    soon(answering).await.unwrap();
    soon(host.shutdown()).await;
    assert_eq!(ask("t", vec![]).await, Err(AskError::Shutdown));
}

#[tokio::test]
async fn question_that_was_picked_up_does_not_keep_the_seeder_running() {
    let seeder = seeder(None).await;
    let host = host(&seeder).await;
    let (id, asking) = (seeder.id(), host.clone());
    let asked = tokio::spawn(async move { asking.ask(id, "t", vec![]).await });
    let ask = soon(seeder.next_ask()).await.unwrap();
    assert_eq!(ask.node, host.id());
    soon(seeder.shutdown()).await;
    assert!(soon(seeder.next_ask()).await.is_none());
    ask.answer(vec![]);
    // The host learns of it by its own time-out.
    asked.abort();
}

#[tokio::test]
async fn questions_that_make_no_sense_are_refused() {
    let seeder = seeder(None).await;
    let host = host(&seeder).await;
    let too_long = soon(host.ask(seeder.id(), &"t".repeat(65), vec![])).await;
    assert_eq!(too_long, Err(AskError::TooLong { topic_bytes: 65, body_bytes: 0 }));
    let too_long = soon(host.ask(seeder.id(), "t", vec![0; (64 << 10) - 1])).await;
    assert!(matches!(too_long, Err(AskError::TooLong { .. })));
    let stranger = NodeId::from_bytes([1; 32]);
    let unknown = soon(host.ask(stranger, "t", vec![])).await;
    assert_eq!(unknown, Err(AskError::UnknownSeeder { seeder: stranger }));
    // A host that is named as a seeder by mistake says no at once.
    let mistaken = self::host(&host).await;
    let refused = AskError::Refused { refusal: Refusal::NotASeeder };
    assert_eq!(soon(mistaken.ask(host.id(), "t", vec![])).await, Err(refused));
}

/// Goal: a host's status reaches its seeder with the host's name proved, and the host does not wait
/// for whoever reads it: a seeder that is busy with its store has it at once.
#[tokio::test]
async fn status_reaches_a_seeder_that_does_not_read_yet() {
    let seeder = seeder(None).await;
    let host = host(&seeder).await;
    let asked = soon(host.ask_any(STATUS_TOPIC, b"fine".to_vec())).await;
    assert_eq!(asked, Ok(vec![]), "nobody picked it up yet");
    let ask = soon(seeder.next_ask()).await.unwrap();
    assert_eq!((ask.node, &*ask.topic, &*ask.body), (host.id(), STATUS_TOPIC, &b"fine"[..]));
    ask.answer(b"nobody hears this".to_vec());
}

/// Goal: reports that nobody will ever read are refused with the reason, not kept; other questions
/// are answered as ever, and the next seeder of the list is asked.
#[tokio::test]
async fn reports_to_a_seeder_that_keeps_none_are_refused() {
    let config = NodeConfig::seeder(Identity::generate(), "127.0.0.1:0".parse().unwrap());
    let keeps_none = Node::start(config).await.unwrap();
    let host = host(&keeps_none).await;
    let refused = soon(host.ask_any(STATUS_TOPIC, vec![7; 60 << 10])).await.unwrap_err();
    assert_eq!(refused, AskError::Refused { refusal: Refusal::KeepsNoReports });
    assert!(refused.to_string().contains("it was started without --goal"), "{refused}");
    let answering = tokio::spawn(answer_all(keeps_none.clone()));
    assert_eq!(soon(host.ask_any("t", b"ab".to_vec())).await, Ok(b"tba".to_vec()));

    let reads = seeder(None).await;
    let list = [keeps_none.address(), reads.address()];
    let asker = Node::start(host_config(&list)).await.unwrap();
    assert_eq!(soon(asker.ask_any(STATUS_TOPIC, b"fine".to_vec())).await, Ok(vec![]));
    assert_eq!(soon(reads.next_ask()).await.unwrap().body, b"fine");
    soon(keeps_none.shutdown()).await;
    soon(answering).await.unwrap();
}

/// Goal: what waits is bounded by its bytes, not only by its number: of the largest reports there
/// are far fewer than of small ones, the newest of them.
#[tokio::test]
async fn large_reports_that_nobody_reads_cost_the_oldest_sooner() {
    const LARGE: usize = 60 << 10;
    /// What a seeder keeps of reports.
    const BYTES_MAX: usize = 16 << 20;
    let seeder = seeder(None).await;
    let host = host(&seeder).await;
    let sent = u32::try_from(BYTES_MAX / LARGE).unwrap() + 10;
    for number in 0..sent {
        let mut body = vec![0; LARGE];
        body[..4].copy_from_slice(&number.to_le_bytes());
        soon(host.ask_any(STATUS_TOPIC, body)).await.unwrap();
    }
    soon(host.ask_any(STATUS_TOPIC, sent.to_le_bytes().to_vec())).await.unwrap();
    let mut kept = Vec::new();
    while kept.last() != Some(&sent) {
        let report = soon(seeder.next_ask()).await.unwrap();
        kept.push(u32::from_le_bytes(report.body[..4].try_into().unwrap()));
    }
    assert!(kept.len() * LARGE <= BYTES_MAX + LARGE, "{} large reports are kept", kept.len());
    let first = *kept.first().unwrap();
    assert!(first > 0, "the oldest is gone");
    assert_eq!(kept, (first..=sent).collect::<Vec<_>>(), "the newest are all here");
}

/// Reports that a seeder keeps for whoever reads them.
const WAITING_MAX: u32 = 4_096;

/// Goal: more reports than may wait cost the oldest ones, and never keep a question from being
/// answered.
#[tokio::test]
async fn reports_that_nobody_reads_cost_the_oldest() {
    let seeder = seeder(None).await;
    let host = host(&seeder).await;
    for number in 0..=WAITING_MAX {
        soon(host.ask_any(STATUS_TOPIC, number.to_le_bytes().to_vec())).await.unwrap();
    }
    let (id, asking) = (seeder.id(), host.clone());
    let asked = tokio::spawn(async move { asking.ask(id, "t", b"a".to_vec()).await });
    let mut statuses = Vec::new();
    let mut question = None;
    while statuses.len() < WAITING_MAX as usize || question.is_none() {
        let ask = soon(seeder.next_ask()).await.unwrap();
        if ask.topic == STATUS_TOPIC {
            statuses.push(u32::from_le_bytes(ask.body[..].try_into().unwrap()));
        } else {
            question = Some(ask);
        }
    }
    assert_eq!(statuses, (1..=WAITING_MAX).collect::<Vec<_>>(), "the oldest is gone");
    question.unwrap().answer(b"b".to_vec());
    assert_eq!(soon(asked).await.unwrap(), Ok(b"b".to_vec()));
}

/// Goal: a seeder that is gone, and one that refuses, are passed by; if none is left, the last
/// one's reason is what is heard.
#[tokio::test]
async fn seeders_are_asked_in_turn() {
    let gone = seeder(None).await;
    let no_seeder = host(&gone).await;
    let last = seeder(None).await;
    let answering = tokio::spawn(answer_all(last.clone()));
    soon(gone.shutdown()).await;
    let list = [gone.address(), no_seeder.address(), last.address()];
    let asker = Node::start(host_config(&list)).await.unwrap();
    assert_eq!(soon(asker.ask_any("t", b"abc".to_vec())).await, Ok(b"tcba".to_vec()));
    let alone = Node::start(host_config(&list[..2])).await.unwrap();
    let refused = AskError::Refused { refusal: Refusal::NotASeeder };
    assert_eq!(soon(alone.ask_any("t", vec![])).await, Err(refused));
    let lost = Node::start(host_config(&[])).await.unwrap();
    let nobody = AskError::NobodyAnswers { reason: NoAnswer::NoSeeder };
    assert_eq!(soon(lost.ask_any("t", vec![])).await, Err(nobody));
    soon(last.shutdown()).await;
    soon(answering).await.unwrap();
}
