import SimulationSupport
import Testing

/// Runs that have failed once, cut down to the steps that it took.
@Suite struct FoundSeedsTests {
    private static let found: [(seed: UInt64, steps: String)] = [
        // A held merge that stopped uncovered, with the next discard, what it had copied.
        (2093, "7,14,15,32s"),
        // A merge believed the table of a file whose sync had failed.
        (4727, "4,15s,18,38,45s,52,53,57,67,86f,87,142s,147s"),
        // A grow that failed after the image's header left the descriptor behind when the disk was closed.
        (4793, "32,33s"),
        // A snapshot came between the choice of the top for a held merge and the merge, which trapped.
        (38278, "17,18s,20,24,33s,68"),
        // An owner's proof met a descriptor that another of its threads had just put in place.
        (634, "1s,2,5,6,7s,9,10,11s,13s,18s,22s"),
        // A delete that came too late for a disk took what its next owner had put in place for a foreign descriptor.
        (22391, "35,41s,42,43s,44s,45s,46,48s,53,56s,61s"),
        // A record of a migration that could not be read was taken for none: two targets had the disk.
        (28119, "0,2"),
        // The note of a guest's start could not be made: the start had failed, and was to be begun again there.
        (1_011_249, "1,3"),
        // Another writer merged an index file away between its rename and its first use.
        (
            31475,
            "0,3,4,5f,7,8,9,10,11,12,13fs,14,16,17s,18,19,20,21,22,23,24,26fs,27,28,30,32,33,34,36,37"
        ),
    ]

    @Test("what was found once is not found again", arguments: found.indices)
    func stays(index: Int) {
        var simulation = Simulation(seed: Self.found[index].seed)
        simulation.keep(Self.found[index].steps)
        let outcome = simulation.run()
        #expect(outcome.finding == nil, "\(outcome.log.suffix(20).joined(separator: "\n"))")
    }
}
