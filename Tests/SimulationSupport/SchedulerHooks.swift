import CSystemShims
import Glibc
import Synchronization

/// The C side of ``Scheduler``: which thread is whose, and the table that the product's locks and threads ask.
enum Hooks {
    typealias Actor = Scheduler.Actor

    /// Holds the calling thread's actor.
    private static let key: pthread_key_t = {
        var key = pthread_key_t()
        pthread_key_create(&key, nil)
        return key
    }()

    static var actor: Actor? {
        guard let held = pthread_getspecific(key) else { return nil }
        return Unmanaged<Actor>.fromOpaque(held).takeUnretainedValue()
    }

    private static func actor(_ thread: UnsafeMutableRawPointer?) -> Actor? {
        thread.map { Unmanaged<Actor>.fromOpaque($0).takeUnretainedValue() }
    }

    private static func number(_ lock: UnsafeRawPointer?) -> UInt { UInt(bitPattern: lock) }

    private static let isInstalled: Bool = {
        let table = UnsafeMutablePointer<shim_scheduler>.allocate(capacity: 1)
        table.initialize(
            to: shim_scheduler(
                owns_thread: { Hooks.actor == nil ? 0 : 1 },
                blocked: { lock in Hooks.actor?.scheduler.blocked(Hooks.number(lock)) },
                unlocked: { lock in Hooks.actor?.scheduler.unlocked(Hooks.number(lock)) },
                wait: { lock, deadline in
                    Hooks.actor?.scheduler.wait(Hooks.number(lock), deadline: deadline) == false ? 0 : 1
                },
                wake: { lock in Hooks.actor?.scheduler.wake(Hooks.number(lock)) },
                idle: { deadline in Hooks.actor?.scheduler.idle(until: deadline) == false ? 0 : 1 },
                make: { name in
                    guard let name, let made = Hooks.actor?.scheduler.make(String(cString: name)) else { return nil }
                    return Unmanaged.passRetained(made).toOpaque()
                },
                made: { thread, handle in
                    guard let actor = Hooks.actor(thread) else { return }
                    actor.scheduler.made(actor, handle)
                    if handle == 0, let thread { Unmanaged<Actor>.fromOpaque(thread).release() }
                },
                begin: { thread in
                    pthread_setspecific(Hooks.key, thread)
                    if let actor = Hooks.actor { actor.scheduler.begin(actor) }
                },
                end: { thread in
                    guard let thread else { return }
                    let actor = Unmanaged<Actor>.fromOpaque(thread).takeRetainedValue()
                    pthread_setspecific(Hooks.key, nil)
                    actor.scheduler.end(actor)
                },
                join: { handle in Hooks.actor?.scheduler.join(handle: handle) },
                now: { isRealtime in Hooks.actor?.scheduler.now(isRealtime: isRealtime != 0) ?? 0 },
                random: { buffer, count in
                    guard let buffer else { return }
                    Hooks.actor?.scheduler.fill(UnsafeMutableRawBufferPointer(start: buffer, count: count))
                }))
        shim_install_scheduler(table)
        return true
    }()

    static func install() { _ = isInstalled }

    private final class Start {
        let actor: Actor
        let body: @Sendable () -> Void
        init(_ actor: Actor, _ body: @escaping @Sendable () -> Void) {
            self.actor = actor
            self.body = body
        }
    }

    /// Makes the thread of an actor that the test itself asks for.
    static func start(_ actor: Actor, _ body: @escaping @Sendable () -> Void) {
        let start = Unmanaged.passRetained(Start(actor, body)).toOpaque()
        var attributes = pthread_attr_t()
        pthread_attr_init(&attributes)
        pthread_attr_setstacksize(&attributes, 8 << 20)
        pthread_attr_setdetachstate(&attributes, CInt(PTHREAD_CREATE_DETACHED))
        var thread = pthread_t()
        let result = pthread_create(
            &thread, &attributes,
            { context in
                guard let context else { return nil }
                let start = Unmanaged<Start>.fromOpaque(context).takeRetainedValue()
                pthread_setspecific(Hooks.key, Unmanaged.passUnretained(start.actor).toOpaque())
                start.actor.scheduler.begin(start.actor)
                start.body()
                pthread_setspecific(Hooks.key, nil)
                start.actor.scheduler.end(start.actor)
                return nil
            }, start)
        precondition(result == 0, "the host makes no more threads")
        pthread_attr_destroy(&attributes)
    }
}
