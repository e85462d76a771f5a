import java.io.InputStream;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Semaphore;

/** What goes wrong in a server, on request: bench/trouble/app.py's paths that have a meaning here, by four threads, on descriptor 0. */
public class App {
    static final long REPORT_NS = 6_000_000_000L;
    static final Semaphore pool = new Semaphore(0);
    static volatile long total;

    public static void main(String[] words) throws Exception {
        ServerSocketChannel listener = (ServerSocketChannel) System.inheritedChannel();
        ExecutorService threads = Executors.newFixedThreadPool(4);
        while (true) {
            SocketChannel customer = listener.accept();
            threads.submit(() -> serve(customer));
        }
    }

    static void serve(SocketChannel customer) {
        try (customer) {
            ByteBuffer head = ByteBuffer.allocate(4096);
            if (customer.read(head) <= 0) return;
            act(new String(head.array(), 0, head.position(), StandardCharsets.ISO_8859_1).split(" ")[1]);
            customer.write(ByteBuffer.wrap("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n".getBytes()));
        } catch (Exception problem) {
            System.err.println(problem);
        }
    }

    static void act(String path) throws Exception {
        long end = System.nanoTime() + REPORT_NS;
        switch (path) {
            case "/spin/constant": while (true) total++;
            case "/spin/allocate": for (List<byte[]> kept = new ArrayList<>();;) { kept.add(new byte[1000]); if (kept.size() > 10000) kept.clear(); }
            case "/pool": pool.acquire(); break;
            case "/upstream":
                try (Socket peer = new Socket()) {
                    peer.connect(new InetSocketAddress("127.0.0.1", Integer.parseInt(System.getenv("UPSTREAM"))));
                    InputStream answer = peer.getInputStream();
                    answer.read();
                }
                break;
            case "/report": while (System.nanoTime() < end) total++; break;
            case "/collect":
                for (List<byte[]> kept = new ArrayList<>(); System.nanoTime() < end; kept.add(new byte[1000])) if (kept.size() > 200000) kept.clear();
                break;
            default:
        }
    }
}
