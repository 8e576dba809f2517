def test_keeps_the_shortest_distinct_responses_then_the_lowest_sample_id(corpus, judge):
    context = corpus(
        [
            ("s1", "p", "long answer"),
            ("s2", "p", "ab"),
            ("s3", "p", " ab "),
            ("s4", "p", "cd"),
            ("s5", "p", "abc"),
            ("t1", "q", "a much longer answer than every other one"),
        ]
    )
    fates = judge("cap_per_task", context, at_most=3)
    assert {s: fate["score"] for s, fate in fates.items()} == {
        "s2": 1.0,
        "s4": 2.0,
        "s5": 3.0,
        "s1": 4.0,
        "s3": 5.0,
        "t1": 1.0,
    }
    assert {s for s, fate in fates.items() if fate["kept"]} == {"s2", "s4", "s5", "t1"}
    assert "already has 3 rows" in fates["s3"]["reason"]
