import Testing

@testable import DiskImage

/// The one table of what excludes what.
@Suite struct ActivityTests {
    /// A row for each activity that wants to begin, a letter for each that is under way, in the order of `allCases`:
    /// beside, waits, stops (the other one), refused.
    private static let table: [(Activity, String)] = [
        //          prepare prepared commit merge mergeTop compact step grow track hold swap finish close
        (.prepare, "r r r b w b s r b b b b r"),
        (.prepared, "b b b b b b b r b b b b r"),
        (.commit, "b b b b b b b r b b b b r"),
        (.merge, "b b b r b r b r b b b b r"),
        (.mergeTop, "r r r b r r b r b b b b r"),
        (.compact, "b b b r r r b r b b b b r"),
        (.step, "w w w b b b w b b b b b r"),
        (.grow, "r r r r r r w r r b w b r"),
        (.track, "b b b b b b b r b b b b r"),
        (.hold, "b b b b b b b b b b b b r"),
        (.swap, "b b b b b b b b b b w b b"),
        (.finish, "b b b b b b b b b b b w b"),
        (.close, "w w w s w s s w b b w w r"),
    ]

    private func letter(_ relation: Activities.Relation) -> Character {
        switch relation {
        case .beside: "b"
        case .waits: "w"
        case .stops: "s"
        case .refused: "r"
        }
    }

    @Test("every pair is as the table says")
    func pairs() {
        #expect(Self.table.map(\.0) == Activity.allCases)
        for (new, row) in Self.table {
            let expected = row.filter { $0 != " " }
            #expect(expected.count == Activity.allCases.count)
            for (running, letter) in zip(Activity.allCases, expected) {
                // A prepared snapshot is given up when the disk is closed.
                let wanted: Character = new == .close && running == .prepared ? "b" : letter
                let found = self.letter(Activities.relation(of: new, to: running))
                #expect(found == wanted, "\(new) while \(running)")
            }
        }
    }

    @Test("what runs beside another does so in either order of their beginnings")
    func symmetry() {
        // These come by themselves from what they follow, or belong to what they run in.
        let inner: Set<Activity> = [.prepared, .commit, .swap, .step, .finish]
        for first in Activity.allCases where !inner.contains(first) && first != .close {
            for second in Activity.allCases where !inner.contains(second) && second != .close {
                let one = Activities.relation(of: first, to: second) == .beside
                let other = Activities.relation(of: second, to: first) == .beside
                // The top is merged within a merge, so its relation to that is only asked one way.
                #expect(one == other, "\(first) and \(second)")
            }
        }
        // One that nobody may wait for for ever: whoever is waited for does not wait for the one who waits.
        for first in Activity.allCases {
            for second in Activity.allCases where first != second {
                let waits = Activities.relation(of: first, to: second) == .waits
                #expect(!waits || Activities.relation(of: second, to: first) != .waits, "\(first) and \(second)")
            }
        }
    }

    @Test("an activity begins, waits, makes others stop, or is refused with the one that forbids it")
    func life() {
        var activities = Activities()
        func begin(_ activity: Activity) -> Activities.Answer { activities.begin(activity) }
        func beginClosing() -> Bool { activities.beginClosing() }
        #expect(begin(.compact) == .begun)
        #expect(begin(.merge) == .refused(.compact))
        #expect(begin(.step) == .begun)
        #expect(!activities.isAskedToStop(.step))
        #expect(begin(.prepare) == .stopping)
        #expect(activities.isAskedToStop(.step) && !activities.hasRoom(for: .prepare))
        // It comes first from now on.
        activities.end(.step)
        #expect(activities.hasRoom(for: .prepare) && !activities.isAskedToStop(.step))
        #expect(begin(.step) == .waits)
        activities.turn(.prepare, into: .prepared)
        #expect(begin(.step) == .waits)
        #expect(begin(.grow) == .refused(.prepared))
        activities.turn(.prepared, into: .commit)
        activities.end(.commit)
        #expect(begin(.step) == .begun)
        #expect(begin(.track) == .begun)
        #expect(begin(.track) == .begun)
        activities.end(.track)
        #expect(activities.isUnderWay(.track))
        #expect(beginClosing())
        #expect(!beginClosing())
        #expect(activities.isAskedToStop(.step) && activities.isAskedToStop(.compact))
        #expect(begin(.prepare) == .refused(.close))
        #expect(!activities.mayClose)
        activities.end(.step)
        activities.end(.compact)
        #expect(activities.mayClose)
        // What did not begin does not end.
        activities.end(.merge)
        #expect(!activities.isUnderWay(.merge))
    }

    @Test("a refusal names what is under way")
    func words() {
        for activity in Activity.allCases {
            #expect(DiskError.busy(activity, path: "/d").message.contains(activity.words))
            #expect(DiskError.busy(activity, path: "/d").code == .busy)
        }
    }
}
