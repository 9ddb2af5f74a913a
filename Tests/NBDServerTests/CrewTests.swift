import LinuxSystem
@testable import NBDServer
import SystemPackage
import Testing

@Suite struct CrewTests {
    @Test func `no more threads are called than may be active, but for those that are held`() {
        let crew = Crew(activeMax: 4)
        var started = 0
        for _ in 0..<10 { crew.recruit { started += 1 } }
        #expect(started == 3 && !crew.isShort)
        for number in 1...Crew.heldMax {
            #expect(crew.beginHold() && crew.isShort)
            for _ in 0..<3 { crew.recruit { started += 1 } }
            #expect(started == 3 + number && !crew.isShort)
        }
        // From here on a hold takes the place of an active one.
        #expect(!crew.beginHold())
        crew.recruit { started += 1 }
        #expect(started == 3 + Crew.heldMax)
        for _ in 0..<Crew.heldMax { crew.endHold() }
        #expect(crew.hasSurplus)
        #expect(crew.counts.active == 4 + Crew.heldMax && crew.counts.held == 0)
    }

    @Test func `a thread of the surplus rests until it is called, or ends`() throws {
        let crew = Crew(activeMax: 1)
        #expect(crew.beginHold())
        crew.recruit {}
        crew.endHold()
        #expect(crew.hasSurplus)
        let thread = try OwnThread(name: "resting") { #expect(crew.rest()) }
        while crew.counts.resting == 0 {}
        #expect(crew.beginHold())
        crew.recruit { Issue.record("one was there already") }
        thread.join()
        crew.endHold()
        // Nobody calls this one.
        #expect(!crew.rest())
        #expect(crew.counts == (active: 1, held: 0, resting: 0))
        #expect(!crew.leave() && crew.leave())
    }

    @Test func `a thread that can't be started is not counted`() {
        let crew = Crew(activeMax: 2)
        for _ in 0..<5 {
            crew.recruit { () throws(SystemError) in
                throw SystemError(errno: .noMemory, operation: "start", subject: "thread")
            }
        }
        #expect(crew.counts.active == 1 && crew.isShort)
        crew.end()
        crew.recruit { Issue.record("nobody is needed after the end") }
        #expect(crew.leave())
    }
}
